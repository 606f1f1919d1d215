"""Machine code ahead of time, without a GPU: what it holds, what a launch passes, the cache."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="needs Triton: pip install 'graphc[gpu]'")

from graphc.backends.cache import Cache
from graphc.backends.triton import toolchain
from graphc.backends.triton.compiler import Job, compile_kernel, compile_kernels
from graphc.backends.triton.toolchain import TARGETS, disassemble, resources_of
from graphc.errors import BackendError
from graphc.kernel.parser import parse_kernel
from tests.kernel.zoo import ZOO

PRODUCT = """kernel product
  axes m:256 n:256 k:256
  in x {0}[256,256], w {0}[256,256]
  out y f32[256,256]
  a = load x[m, k]
  v = load w[n, k]
  c = contract a, v over k
  store y[m, n] = c"""

#: the instruction of half precision products, where their name is in the text
MATRIX = {"sm_80": "mma.sync", "sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma"}


def of_zoo(name):
    return parse_kernel(next(c.text for c in ZOO if c.name == name))


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "adam", "cross_entropy"])
def test_streaming_kernels_load_vectors_and_spill_nothing(name) -> None:
    made = compile_kernel(Job(of_zoo(name)), TARGETS["sm_90"], Cache(None))
    assert re.search(r"ld\.global[\w.:]*\.v4", made.code.texts["ptx"])
    assert resources_of(made.code)["stack"] == 0


@pytest.mark.parametrize("target", MATRIX)
def test_half_products_run_on_matrix_units(target) -> None:
    job = Job(parse_kernel(PRODUCT.format("bf16")))
    made = compile_kernel(job, TARGETS[target], Cache(None))
    assert MATRIX[target] in made.code.texts["ptx"]
    assert made.code.shared <= TARGETS[target].shared


def test_single_precision_is_exact_unless_asked() -> None:
    kernel = parse_kernel(PRODUCT.format("f32"))
    exact = compile_kernel(Job(kernel), TARGETS["sm_90"], Cache(None))
    fast = compile_kernel(Job(kernel, precision="tf32"), TARGETS["sm_90"], Cache(None))
    assert "fma.rn.f32" in exact.code.texts["ptx"]
    assert "tf32" not in exact.code.texts["ptx"]
    assert "tf32" in fast.code.texts["ptx"]
    assert resources_of(exact.code)["stack"] == resources_of(fast.code)["stack"] == 0


EXTREMES = """kernel extremes
  axes i:37 j:129
  parallel i
  in x {0}[37,129]
  out most {0}[37], at i64[37]
  v = load x[i, j]
  m, n = reduce argmax v; j over j
  store most[i] = m
  store at[i] = n"""


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_extremes_keep_their_type_through_loops(dtype) -> None:
    """Triton widens what it takes the extreme of; the interpreter does not mind, its compiler
    does.
    """
    made = compile_kernel(Job(parse_kernel(EXTREMES.format(dtype))), TARGETS["sm_90"], Cache(None))
    assert made.code.binary[:4] == b"\x7fELF"


def test_other_vendors_get_code_too() -> None:
    made = compile_kernel(Job(of_zoo("softmax")), TARGETS["gfx942"], Cache(None))
    assert "amdgcn" in made.code.texts
    assert made.code.binary[:4] == b"\x7fELF"


def test_the_parameter_block_is_that_of_the_code() -> None:
    for name in ("matmul_size", "checked_window", "dropout_relu"):
        made = compile_kernel(Job(of_zoo(name), guarded=True), TARGETS["sm_90"], Cache(None))
        extra = len(made.code.parameters) - len(made.emitted.arguments)
        assert extra == 2, "scratch for globals and for a profiler"
        assert set(made.code.parameters) == {8}


def test_equal_kernels_compile_once_and_the_cache_holds_them(tmp_path, monkeypatch) -> None:
    calls = []
    compile_text = toolchain.compile_text

    def counted(emitted, target, **options):
        calls.append(emitted.symbol)
        return compile_text(emitted, target, **options)

    monkeypatch.setattr("graphc.backends.triton.compiler.compile_text", counted)
    texts = [f"kernel {name}\n" + of_zoo_body() for name in ("one", "two")]
    jobs = [Job(parse_kernel(t)) for t in texts]
    first = compile_kernels(jobs, TARGETS["sm_90"], Cache(tmp_path))
    assert len(calls) == 1
    assert [k.name for k in first] == ["one", "two"]
    again = compile_kernels(jobs, TARGETS["sm_90"], Cache(tmp_path))
    assert len(calls) == 1
    assert again[0].code == first[0].code
    (entry,) = list(tmp_path.rglob("*.o"))
    entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    compile_kernels(jobs, TARGETS["sm_90"], Cache(tmp_path))
    assert len(calls) == 2, "a damaged entry is made anew"


def test_element_types_make_different_code_of_one_text() -> None:
    texts = ["kernel one\n" + of_zoo_body().replace("f32", t) for t in ("f32", "f64")]
    texts = [t.replace("a + 1.0", "abs(a)") for t in texts]
    made = compile_kernels([Job(parse_kernel(t)) for t in texts], TARGETS["sm_90"], Cache(None))
    assert made[0].emitted.text == made[1].emitted.text
    assert made[0].code.binary != made[1].code.binary


def of_zoo_body():
    return """  axes i:64
  in x f32[64]
  out y f32[64]
  a = load x[i]
  store y[i] = a + 1.0"""


def test_a_kernel_too_big_for_its_target_is_refused() -> None:
    small = toolchain.Target("tiny", "cuda", 90, 32, 1024)
    with pytest.raises(BackendError, match="bytes of shared memory, tiny has 1,024"):
        compile_kernel(Job(parse_kernel(PRODUCT.format("bf16"))), small, Cache(None))


def test_importing_graphc_imports_no_triton() -> None:
    program = "import graphc, sys; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_every_stage_can_be_read() -> None:
    made = compile_kernel(Job(of_zoo("softmax")), TARGETS["sm_90"], Cache(None))
    assert "ttg." in made.code.texts["ttgir"]
    assert "EXIT" in disassemble(made.code, ("-sass",))
    assert resources_of(made.code)["threads"] == 32 * made.tiling.warps


def test_without_a_gpu_the_backend_says_so() -> None:
    program = (
        "import graphc as gc\nx = gc.observed('x', (3,))\n"
        "try: gc.compile([x], x * 2.0, backend='triton')\n"
        "except gc.BackendError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(sys.path), "CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip
    assert "backend 'triton' cannot run here" in done.stdout, done.stderr


def test_a_source_that_two_threads_load_at_once_is_loaded(tmp_path) -> None:
    path = tmp_path / "kernel.py"
    path.write_text("import sys\nsys.modules.pop(__name__)\nvalue = 7\n")  # as the other one does
    assert toolchain._load(path, "kernel").value == 7


@pytest.mark.parametrize(("by", "width"), [("", ".b32"), (" by 8", ".v4.b32")])
def test_lines_of_a_known_divisor_load_as_vectors(by, width) -> None:
    kernel = parse_kernel(f"""kernel lines
  size B 1..{by}
  axes i:64 j:B
  in x f32[64,B]
  out y f32[64,B]
  a = load x[i, j]
  store y[i, j] = a * 2.0""")
    made = compile_kernel(Job(kernel), TARGETS["sm_90"], Cache(None))
    found = set(re.findall(r"(?:ld|st)\.global([\w.:]*)", made.code.texts["ptx"]))
    assert found == {width}
