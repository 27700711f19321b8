import asyncio
import contextlib
import io
import sys
import zipfile

import pytest

from hearth.build import runtimes
from hearth.build.builder import Recipe
from hearth.errors import DeployFailed

HANDLE = "def handle(request): return 1\n"


def files(**contents):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name.replace("__", "/") + ".py", content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("source", "handler", "contract"),
    [
        (HANDLE, "", "handler"),
        ("async def handle(request): return 1", "", "handler"),
        ("def handle(*args): return 1", "", "handler"),
        ("def handle(request, /): return 1", "", "handler"),
        ("def handle(): return 1", "", "script"),
        ("def handle(*, request): return 1", "", "script"),
        ("def handle(**kw): return 1", "", "script"),
        ("def other(request): return 1", "", "script"),
        ("def other(request): return 1", "other", "handler"),
        ("def main():\n    pass\n", "main", "script"),
        ("handle = lambda request: 1", "", "handler"),
        ("handle = lambda: 1", "", "script"),
        ("handle = make()", "", "handler"),
        ("handle = 5", "", "script"),
        ("handle: object = make()", "", "handler"),
        ("from helpers import handle", "", "handler"),
        ("from helpers import work as handle", "", "handler"),
        ("import handle", "", "handler"),
        ("try:\n    import x\nexcept ImportError:\n    def handle(r): pass\n", "", "handler"),
        ("if True:\n    def handle(r): pass\n", "", "handler"),
        ("if __name__ == '__main__':\n    def handle(r): pass\n", "", "script"),
        ("def f():\n    def handle(r): pass\n", "", "script"),
        ("class A:\n    def handle(self): pass\n", "", "script"),
        ("def handle(r): pass\ndef handle(): pass\n", "", "script"),
        ("@decorate\ndef handle(r): pass\n", "", "handler"),
        ("print(1)", "", "script"),
    ],
)
def test_the_contract_is_read_from_the_source(shop, source, handler, contract):
    built = shop.build(source, handler=handler)
    assert built.contract == contract
    assert built.handler == ((handler or "handle") if contract == "handler" else "")
    assert any(contract in reason for reason in built.reasons)


def test_only_an_async_def_is_async(shop):
    assert shop.build("async def handle(request): return 1").is_async
    assert not shop.build(HANDLE).is_async


def test_an_explicit_contract_wins(shop):
    assert shop.build(HANDLE, contract="script").contract == "script"
    error = shop.refusal("def handle(): pass", contract="handler")
    assert "takes no parameter" in error.message
    assert (
        "does not define 'run'" in shop.refusal(HANDLE, contract="handler", handler="run").message
    )


def test_a_module_that_lacks_the_named_function_is_a_script_with_a_warning(shop):
    built = shop.build(HANDLE, handler="handler.run")
    assert built.contract == "script"
    assert built.warnings == (
        "handler.py does not define 'run', so the program is run as a script",
    )


@pytest.mark.parametrize(
    ("code", "recipe", "entry"),
    [
        (files(handler=HANDLE, main=HANDLE, app=HANDLE), {}, "handler.py"),
        (files(main=HANDLE, function=HANDLE, app=HANDLE), {}, "main.py"),
        (files(function=HANDLE, app=HANDLE), {}, "function.py"),
        (files(app=HANDLE, other=HANDLE), {}, "app.py"),
        (files(only=HANDLE, sub__x=HANDLE), {}, "only.py"),
        (files(handler=HANDLE, main=HANDLE), {"handler": "main.handle"}, "main.py"),
        (files(handler=HANDLE, pkg__mod=HANDLE), {"handler": "pkg.mod.handle"}, "pkg/mod.py"),
        (files(handler=HANDLE, sub__x=HANDLE), {"entry": "sub/x.py"}, "sub/x.py"),
        (HANDLE, {"handler": "lambda_function.handle"}, "lambda_function.py"),
        (HANDLE, {"entry": "run.py"}, "run.py"),
    ],
)
def test_the_entry_file_is_found_in_the_documented_order(shop, code, recipe, entry):
    assert shop.build(code, **recipe).entry == entry


def test_without_an_entry_file_the_refusal_says_what_is_there(shop):
    error = shop.refusal(files(aa="", bb=""))
    assert "aa.py, bb.py" in error.message
    assert "no x.py" in shop.refusal(files(handler=HANDLE), handler="x.handle").message
    assert "not in the bundle" in shop.refusal(files(handler=HANDLE), entry="x.py").message


def test_code_is_never_run_to_be_understood(shop, tmp_path):
    proof = tmp_path / "ran"
    shop.build(f"open({str(proof)!r}, 'w')\ndef handle(request): pass\n")
    assert not proof.exists()


@pytest.mark.parametrize(
    "source",
    [
        "x = " + "-" * 200_000 + "1",
        "x = " + "a." * 100_000 + "b",
        "(" * 5000,
        "x = [" + "1," * 3_000_000 + "]",
        "lambda: " * 50_000 + "1",
        "if 1:\n" + "".join(" " * n + "if 1:\n" for n in range(1, 150)),
    ],
    ids=["unary", "attributes", "parentheses", "list", "lambdas", "indents"],
)
def test_source_made_to_exhaust_the_compiler_ends_in_an_answer(shop, source):
    with contextlib.suppress(DeployFailed):  # any other exception fails; a hang is cut off
        assert shop.build(source).contract == "script"


def test_a_source_that_declares_its_encoding_is_understood(shop):
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("handler.py", "# coding: cp1252\nx = 'ü'\n".encode("cp1252"))
    assert shop.build(code.getvalue()).contract == "script"


def test_files_that_are_installed_can_be_looked_at_again(shop):
    built = shop.build("def handle(request): pass\ndef other(): pass\n")
    again = asyncio.run(shop.builder.inspect(built.artifact, Recipe(handler="other")))
    assert (again.contract, again.artifact) == ("script", built.artifact)


@pytest.mark.parametrize("name", ["python", "python3", "Python3.11", "python:3.11", "python311"])
def test_runtime_names_resolve_to_the_interpreter_of_the_node(name):
    if sys.version_info[:2] != (3, 11) and "11" in name:
        pytest.skip("another Python runs here")
    assert runtimes.resolve(name) == f"python3.{sys.version_info[1]}"


@pytest.mark.parametrize("name", ["python2", "python3.99", "go", "nodejs", "", "ruby"])
def test_a_runtime_that_is_not_here_is_refused_with_what_there_is(name):
    with pytest.raises(DeployFailed, match="python3") as caught:
        runtimes.resolve(name)
    assert caught.value.path == "$.runtime"
