import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from handloom.train.model.gpt import GPT
from handloom.train.model.shape import SIZES, Shape
from handloom.train.trainer import flops


def shape(size="tiny", **changes):
    grid = {"views": 1, "frames": 5, "rows": 16, "cols": 16}
    text = {"text_length": 24, "text_width": 512}
    return Shape(**{**SIZES[size]._asdict(), "codebook_size": 8192, **grid, **text, **changes})


CASES = [
    shape(frames=2, rows=8, cols=8, codebook_size=64),
    shape(views=2, frames=3, rows=4, cols=6, text_length=77, codebook_size=1024),
    shape("s", layers=2),
    shape("b", layers=1, rows=8, cols=8, text_width=768),
]


def counted(case, batch, device):
    """FLOPs of a loss and its gradient, attention in products that the counter sees."""
    with torch.device(device):
        model = GPT(case)
        codes = torch.zeros(batch, case.codes, dtype=torch.long)
        text = torch.zeros(batch, case.text_length, case.text_width)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(codes, text).mean().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.width}x{case.codes}")
def test_the_formula_is_what_torch_counts(case):
    assert flops.flops_per_clip(case) == pytest.approx(counted(case, 1, "meta"), rel=0.02)


def test_a_batch_on_the_cpu_costs_a_clip_times_its_size():
    case = shape("mini", frames=2, rows=6, cols=6, codebook_size=128)
    assert 3 * flops.flops_per_clip(case) == pytest.approx(counted(case, 3, "cpu"), rel=0.02)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_peaks_are_those_of_the_data_sheets(name, tera):
    assert flops.peak_flops(name, torch.bfloat16) == pytest.approx(tera * 1e12)
    assert flops.peak_flops(name, torch.float32) is None


def test_an_unknown_device_has_no_peak_and_v100_none_in_bfloat16():
    assert flops.peak_flops("NVIDIA A1000 Laptop", torch.bfloat16) is None
    assert flops.peak_flops("cpu", torch.bfloat16) is None
    assert flops.peak_flops("Tesla V100-SXM2-16GB", torch.bfloat16) is None
    assert flops.peak_flops("Tesla V100-SXM2-16GB", torch.float16) == 125e12
