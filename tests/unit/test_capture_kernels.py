"""The parts of numba that its interface does not promise, which the kernels' short first call needs."""

from __future__ import annotations

import numba
import pytest

from trafficllm.capture.kernels import compiling
from trafficllm.capture.kernels.decode import decode_frames

REMEDY = """numba {version} no longer has what capture/kernels/pipeline.py uses ({error}).
Nothing breaks: kernels compile by numba's own pipeline, which took 20 processor seconds where the short one took 12 (numba 0.68.1).
Measure the first call (`python bench/bench_start.py --kernels`): within 10 s without the file, delete it and this test; otherwise compare
numba.core.typed_passes, compiler and codegen with the classes in the file, mend them, and see that tests/golden stay the same."""


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="kernels run as plain Python here")
def test_kernels_are_compiled_by_the_short_pipeline() -> None:
    try:
        from trafficllm.capture.kernels.pipeline import Part, Whole
    except (ImportError, AttributeError) as error:
        pytest.fail(REMEDY.format(version=numba.__version__, error=error))
    entry, part = compiling.entry(lambda x: x), compiling.inner(lambda x: x)
    assert entry._compiler.pipeline_class is Whole
    assert part._compiler.pipeline_class is Part
    assert decode_frames._compiler.pipeline_class is Whole
