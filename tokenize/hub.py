"""What every download from the Hugging Face hub needs: a quick answer whether it can be reached."""

import contextlib
import urllib.error
import urllib.request

HUB_TIMEOUT_S = 5.0


def ask_hub() -> None:
    """Return if the hub answers; raises OSError where it does not, or where it is switched off.

    huggingface_hub retries a name that does not resolve for 23 s; this asks once.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    with contextlib.suppress(urllib.error.HTTPError):  # any status is an answer
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S).close()
