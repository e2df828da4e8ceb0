from dwclib.code import code_of, imports_of, meaning_of
from dwclib.files import PACKAGE


def test_the_code_of_a_module_is_what_it_imports():
    names = [path.name for path in code_of("dwclib.training.runs")]
    assert {"runs.py", "losses.py", "garments.py", "alternate.py", "__init__.py"} <= set(names)
    assert not {"plots.py", "execute.py", "claims.py", "pretrain.py"} & set(names)
    assert len(names) == len(set(code_of("dwclib.training.runs")))
    assert code_of("dwclib.combiner") == code_of("dwclib.combiner", "dwclib.editors")


def test_a_name_that_a_package_gives_lazily_stands_for_its_module():
    names = imports_of(
        "from dwclib import experiments\nfrom dwclib.training import Config as C\nexperiments.load"
    )
    assert set(names) >= {"dwclib.experiments.load", "dwclib.training.Config"}
    found = {str(path.relative_to(PACKAGE)) for path in code_of(*names)}
    assert {"experiments/store.py", "training/config.py", "training/runs.py"} <= found
    lone = {path.name for path in code_of(*imports_of("from dwclib.experiments import Interval"))}
    assert "statistics.py" in lone
    assert "store.py" not in lone
    assert imports_of("import torch\nx.y") == ()


def test_only_what_can_change_a_result_is_the_meaning_of_a_file(tmp_path):
    code = '''"""A module."""

def double(x):
    """Return 2 x."""
    # a remark
    return 2 * x  # another "one"
'''
    (path := tmp_path / "code.py").write_text(code)
    meant = meaning_of(path)
    assert meant == "def double(x):\n    return 2 * x"
    same = (
        code.replace("A module", "The module").replace("a remark", "said otherwise").replace("\n\n", "\n\n\n")
    )
    path.write_text(same)
    assert meaning_of(path) == meant
    path.write_text(code.replace("2 * x  #", "3 * x  #"))
    assert meaning_of(path) != meant
    path.write_text("def f(x):\n    for y in x:\n        y += 1\n    return y\n")
    inside = meaning_of(path)
    path.write_text("def f(x):\n    for y in x:\n        y += 1\n        return y\n")
    assert meaning_of(path) != inside
    path.write_text('mark = "# not a comment"\n')
    assert meaning_of(path) == 'mark = "# not a comment"'


def test_the_meaning_of_a_module_has_no_docstring():
    for path in code_of("dwclib.experiments.probes"):
        kept = meaning_of(path)
        assert '"""' not in kept
        assert len(kept) < len(path.read_text())
