// Hands drawn over the video: those of the frame that was looked at nearest to the time on screen.
// They fade with the time that lies between, and are never moved to where a hand may be meanwhile.

const FADED_S = 0.3; // from the looked-at frame, when its marks are gone
const BONES = [
  [0, 1, 2, 3, 4], [0, 5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16], [0, 17, 18, 19, 20], [5, 9, 13, 17],
];
export const COLOURS = { confirmed: "#3cdc5a", lone: "#ffa500", doubtful: "#ff3c96" };

export const kind = (hand) => (!hand.counts ? "doubtful" : hand.confidence >= 1 ? "confirmed" : "lone");

export class Overlay {
  constructor(clip, video) {
    this.video = video;
    this.visible = true;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "clip-overlay";
    this.hands = clip.hands;
    this.picture = clip.media.picture; // what the video shows of the stored picture
    this.frames = clip.hands ? clip.hands.frames.filter((frame) => frame.searched) : [];
    this.near_s = 0.6 / (clip.media.fps || 10);
    this.time = clip.start_s;
  }

  watch() {
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(this.video);
  }

  stop() {
    this.observer?.disconnect();
  }

  // Lay the canvas over the picture, which may be smaller than the element.
  fit() {
    const { videoWidth, videoHeight, clientWidth, clientHeight } = this.video;
    if (!videoWidth || !clientWidth) return;
    const scale = Math.min(clientWidth / videoWidth, clientHeight / videoHeight);
    const [width, height] = [videoWidth * scale, videoHeight * scale];
    const ratio = window.devicePixelRatio || 1;
    Object.assign(this.canvas.style, {
      width: `${width}px`,
      height: `${height}px`,
      left: `${this.video.offsetLeft + (clientWidth - width) / 2}px`,
      top: `${this.video.offsetTop + (clientHeight - height) / 2}px`,
    });
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.ratio = ratio;
    this.draw(this.time);
  }

  draw(time) {
    this.time = time;
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.visible || !this.hands) return;
    this.drawBars(pen);
    const frame = nearest(this.frames, time);
    if (!frame) return;
    const away = Math.max(0, Math.abs(frame.time_s - time) - this.near_s);
    const strength = 1 - away / FADED_S;
    if (strength <= 0) return;
    const hands = [...frame.hands].sort((a, b) => a.confidence - b.confidence);
    for (const hand of hands) this.drawHand(pen, hand, strength);
  }

  x(value) {
    const [left, , right] = this.picture;
    return ((value - left) / (right - left)) * this.canvas.width;
  }

  y(value) {
    const [, top, , bottom] = this.picture;
    return ((value - top) / (bottom - top)) * this.canvas.height;
  }

  drawHand(pen, hand, strength) {
    const colour = COLOURS[kind(hand)];
    const [x0, y0, x1, y1] = hand.box;
    pen.globalAlpha = strength;
    this.line(pen, colour, () => pen.rect(this.x(x0), this.y(y0), this.x(x1) - this.x(x0), this.y(y1) - this.y(y0)));
    if (hand.points.length === 42) this.drawPoints(pen, hand.points, colour);
    pen.font = `600 ${12 * this.ratio}px system-ui, sans-serif`;
    const words = `${hand.side.toLowerCase()} ${hand.confidence.toFixed(2)}`;
    const [x, y] = [this.x(x0), Math.max(14 * this.ratio, this.y(y0) - 5 * this.ratio)];
    pen.lineWidth = 3 * this.ratio;
    pen.strokeStyle = "rgba(0, 0, 0, 0.75)";
    pen.strokeText(words, x, y);
    pen.fillStyle = colour;
    pen.fillText(words, x, y);
    pen.globalAlpha = 1;
  }

  drawPoints(pen, points, colour) {
    const at = (i) => [this.x(points[2 * i]), this.y(points[2 * i + 1])];
    this.line(pen, colour, () => {
      for (const bone of BONES) bone.forEach((i, place) => (place ? pen.lineTo(...at(i)) : pen.moveTo(...at(i))));
    }, 0.75);
    pen.fillStyle = colour;
    for (let i = 0; i < 21; i++) {
      pen.beginPath();
      pen.arc(...at(i), 2.2 * this.ratio, 0, 7);
      pen.fill();
    }
  }

  // A coloured line with a dark edge, which is seen on any picture.
  line(pen, colour, path, width = 1) {
    for (const [stroke, thick] of [["rgba(0, 0, 0, 0.6)", 4], [colour, 2]]) {
      pen.beginPath();
      path();
      pen.strokeStyle = stroke;
      pen.lineWidth = thick * width * this.ratio;
      pen.stroke();
    }
  }

  // What is cut off before the clip is encoded is dimmed.
  drawBars(pen) {
    const [x0, y0, x1, y1] = this.hands.picture_xyxy;
    if (x0 <= 0 && y0 <= 0 && x1 >= 1 && y1 >= 1) return;
    pen.fillStyle = "rgba(128, 128, 128, 0.35)";
    pen.beginPath();
    pen.rect(0, 0, this.canvas.width, this.canvas.height);
    pen.rect(this.x(x0), this.y(y0), this.x(x1) - this.x(x0), this.y(y1) - this.y(y0));
    pen.fill("evenodd");
  }
}

export function nearest(frames, time) {
  let best = null;
  for (const frame of frames) {
    if (!best || Math.abs(frame.time_s - time) < Math.abs(best.time_s - time)) best = frame;
  }
  return best;
}
