"""Which code rows depend on: only a change in that code invalidates cached rows."""

import ast
from pathlib import Path

import pytest

from hfkit.data import caching
from hfkit.data.caching import code_hash
from hfkit.data.forms import instruction_row


def hash_after_a_change_in(module: str, function, monkeypatch) -> str:
    """Return the hash of a function's code after a module of hfkit.data has changed."""
    file, read_bytes = Path(caching.__file__).with_name(f"{module}.py"), Path.read_bytes
    assert file.is_file()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: read_bytes(path) + b"#" * (path == file))
        caching._module_hash.cache_clear()
        changed = code_hash(function)
    caching._module_hash.cache_clear()
    return changed


@pytest.mark.parametrize("module", ["chat_template", "conversions", "encoding", "faults", "forms", "messages"])
def test_a_change_in_code_that_rows_depend_on_tokenizes_them_again(module, monkeypatch):
    assert hash_after_a_change_in(module, instruction_row, monkeypatch) != code_hash(instruction_row)


@pytest.mark.parametrize("module", ["caching", "comparisons", "files", "held_out", "mixture", "packing", "splits"])
def test_a_change_in_other_code_keeps_tokenized_rows(module, monkeypatch):
    assert hash_after_a_change_in(module, instruction_row, monkeypatch) == code_hash(instruction_row)


PLUMBING = {"built_in_templates", "caching", "cards", "comparisons", "concatenation", "files", "mixture", "sources"}
PLUMBING |= {"progress", "splits", "streams"}


def test_modules_with_functions_over_rows_import_no_code_that_is_not_hashed():
    """Modules in PLUMBING do not affect the results of these functions; a new module must be classified."""
    folder = Path(caching.__file__).parent
    for name in (*caching.ROW_MODULES, "forms", "comparisons", "concatenation", "held_out", "packing"):
        imports = [node for node in ast.parse((folder / f"{name}.py").read_text()).body if hasattr(node, "module")]
        modules = [(node.module, [one.name for one in node.names]) for node in imports if node.module]
        used = {name for module, names in modules if module == "hfkit.data" for name in names}
        used |= {module.split(".")[2] for module, _ in modules if module.startswith("hfkit.data.")}
        assert used <= {*caching.ROW_MODULES} | PLUMBING
