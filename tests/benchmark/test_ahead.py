"""`python -m glcic_jax.benchmark ahead`: how it reads XLA's programs, on excerpts, and its errors."""

import importlib.util

import pytest
from benchmark.test_benchmark import refused

from glcic_jax.benchmark import ahead, hlo
from glcic_jax.benchmark.ahead import Target, faults_of, parse_target
from glcic_jax.benchmark.hlo import Array
from glcic_jax.errors import ConfigError

# Of JAX 0.11.2 for an H100, shortened: a forward convolution, two kernel gradients and a fusion.
ON_GPU = """\
HloModule jit_run, is_scheduled=true, entry_computation_layout={(f32[4,64,64,64]{3,2,1,0})->f32[]}

%fused_convert (param_0.9: bf16[4,64,64,64]) -> f32[1024] {
  %param_0.9 = bf16[4,64,64,64]{3,2,1,0} parameter(0), metadata={scheduling_name="param_0.9"}
  %convert.3.1 = f32[4,64,64,64]{3,2,1,0} convert(%param_0.9), metadata={op_name="jit(run)/convert_element_type"}
  ROOT %reduce.1.1 = f32[1024]{0} reduce(%convert.3.1, %constant_3_2), dimensions={1}, to_apply=%region_0.1
}

ENTRY %main.2 (i.1: bf16[4,64,64,64], k.1: bf16[3,3,64,64]) -> (f32[], bf16[4,64,64,64]) {
  %i.1 = bf16[4,64,64,64]{3,2,1,0} parameter(0), sharding={replicated}
  %cudnn-conv.2 = (bf16[4,64,64,64]{3,2,1,0}, u8[0]{0}) custom-call(%i.1, %k.1), window={size=3x3 pad=16_16x16_16 \
rhs_dilate=16x16}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", \
metadata={op_name="jit(run)/jvp(CompletionNetwork)/conv10/conv_general_dilated" stack_frame_id=10}
  %get-tuple-element.12 = bf16[4,64,64,64]{3,2,1,0} get-tuple-element(%cudnn-conv.2), index=0
  %wide = f32[4,64,64,64]{3,2,1,0} fusion(%i.1), kind=kLoop, calls=%wrapped, metadata={op_name="jit(run)/wide"}
  %cudnn-conv.4 = (f32[64,64,64,3]{3,2,1,0}, u8[0]{0}) custom-call(%wide, %wide), window={size=64x64 \
pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %gemm = bf16[4,64]{1,0} custom-call(%i.1, %k.1), custom_call_target="__cublas$gemm"
  %fusion.1 = f32[1024]{0} fusion(%get-tuple-element.12), kind=kInput, calls=%fused_convert
  %a = f32[3,3,64,64]{3,2,1,0} copy(%k.1)
  %b = bf16[64]{0} copy(%k.1)
  %all-reduce-start = ((f32[3,3,64,64]{3,2,1,0}, bf16[64]{0}), f32[3,3,64,64]{3,2,1,0}, bf16[64]{0}) \
all-reduce-start(%a, %b), replica_groups=mesh['devices'=8] {'devices'}, to_apply=%add
  %all-reduce-done = (f32[3,3,64,64]{3,2,1,0}, bf16[64]{0}) all-reduce-done(%all-reduce-start)
  %all-reduce.7 = bf16[64]{0} all-reduce(%b), channel_id=7, replica_groups={{0,1}}, to_apply=%add
  ROOT %tuple.5 = (f32[1024]{0}, f32[4,64,64,64]{3,2,1,0}) tuple(%fusion.1, %wide)
}
"""
# For a TPU v6e, shortened: layouts have tiles; convolutions are inside fusions, and so are products.
ON_TPU = """\
%fused_computation.1 (param_0.1: bf16[96,64,64,256], param_1.2: bf16[3,3,256,256]) -> bf16[96,64,64,256] {
  %param_0.1 = bf16[96,64,64,256]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %param_1.2 = bf16[3,3,256,256]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.5 = bf16[96,64,64,256]{3,0,2,1:T(8,128)(2,1)} convolution(%param_0.1, %param_1.2), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(step)/conv5/conv"}
}

%fused_computation.2 (param_0.1: bf16[96,8192], param_1.2: bf16[8192,1024]) -> f32[96,1024] {
  ROOT %convolution.6 = f32[96,1024]{1,0:T(8,128)} convolution(%param_0.1, %param_1.2), dim_labels=bf_io->bf
}

ENTRY %main (p: bf16[96,64,64,256]) -> bf16[96,64,64,256] {
  %fusion.4 = f32[96,1024]{1,0:T(8,128)} fusion(%p, %k), kind=kOutput, calls=%fused_computation.2
  ROOT %fusion.3 = bf16[96,64,64,256]{3,0,2,1:T(8,128)(2,1)S(1)} fusion(%p, %k), kind=kOutput, \
calls=%fused_computation.1
}
"""


def test_reads_convolutions_of_cudnn():
    forward, gradient = hlo.convolutions(hlo.read(ON_GPU))
    assert forward == ("bf16", (3, 3), Array("bf16", (4, 64, 64, 64)), "jit(run)/jvp(CompletionNetwork)/conv10/"
                       "conv_general_dilated")  # fmt: skip
    assert gradient == ("f32", (64, 64), Array("f32", (64, 64, 64, 3)), "")


def test_reads_convolutions_of_a_tpu_without_products():
    (found,) = hlo.convolutions(hlo.read(ON_TPU))
    assert found == ("bf16", (3, 3), Array("bf16", (96, 64, 64, 256)), "jit(step)/conv5/conv")


def test_arrays_inside_fusions_are_not_in_memory():
    found = [array for array, _ in hlo.arrays_in_memory(hlo.read(ON_GPU))]
    assert found.count(Array("f32", (4, 64, 64, 64))) == 1
    assert Array("f32", (1024,)) in found
    found = [array for array, _ in hlo.arrays_in_memory(hlo.read(ON_TPU))]
    assert found == [Array("f32", (96, 1024)), Array("bf16", (96, 64, 64, 256))]


def test_collectives_count_once_when_they_start():
    assert hlo.collectives(hlo.read(ON_GPU)) == [3 * 3 * 64 * 64 * 4 + 64 * 2, 64 * 2]


@pytest.mark.parametrize(("dtype", "size"), [("f32", 24), ("bf16", 12), ("pred", 6), ("u8", 6), ("f8e4m3fn", 6)])
def test_sizes_of_arrays(dtype, size):
    assert Array(dtype, (2, 3)).bytes == size
    assert hlo.read(f"ENTRY %m () -> x {{\n  %a = {dtype}[2,3]{{1,0}} copy(%b)\n}}")[0]["a"].results == (
        Array(dtype, (2, 3)),
    )


def counts(**options) -> list[int]:
    arguments = {"dtype": "bfloat16", "float32_elements": 2**20 - 1, "is_gpu": True} | options
    return [len(texts) for texts in faults_of(hlo.read(ON_GPU), **arguments).values()]


def test_faults():
    assert counts() == [1, 1, 1]
    assert counts(float32_elements=2**20) == [1, 1, 0]
    assert counts(dtype="float32") == [1, 0, 0]
    assert counts(is_gpu=False) == [0, 1, 1]


def test_targets():
    assert parse_target("h200") == Target("h200", 1)
    assert parse_target("v5e:16") == Target("v5e", 16)
    for text, message in [
        ("a100", "unknown target 'a100': choose one of h100, h200, v5e, v6e"),
        ("h100:9", "h100 can be compiled for 1 to 8 GPUs"),
        ("h100:x", "1 to 8 GPUs"),
        ("v6e:2", "1, 4 or 16 chips"),
    ]:
        with pytest.raises(ConfigError, match=message):
            parse_target(text)


@pytest.mark.parametrize(
    ("target", "package"), [("h100", r"pip install 'jax\[cuda13\]'"), ("v5e:4", "pip install libtpu")]
)
def test_missing_plugin_is_reported_with_the_package_to_install(target, package, monkeypatch):
    def find(name, *rest):
        return None if name in ("libtpu", *ahead._CUDA_PLUGINS) else real(name, *rest)

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(ConfigError, match=package):
        ahead.print_ahead(target, "configs/joint.py", None, None, "bfloat16", "none", "joint")
    assert "pip install" in refused("ahead", "--target", target)
