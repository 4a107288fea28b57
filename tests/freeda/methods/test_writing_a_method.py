"""The method of docs/writing-a-method.md, taken from the page, does what every method must do."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import freeda
from freeda.methods import METHODS
from tests.freeda.methods.contract import MethodContract, picture

PAGE = (Path(__file__).parents[3] / "docs" / "writing-a-method.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
NAME, MODULE = re.search(r'^\+ +"([\w-]+)": "([\w.]+)",$', PAGE, re.MULTILINE).groups()


@pytest.fixture(scope="module", autouse=True)
def method(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The page's folder and its line of the registry."""
    folder = tmp_path_factory.mktemp("methods")
    package = folder / MODULE.rpartition(".")[2]
    package.mkdir()
    (package / "__init__.py").write_text(CODE[0])
    sys.path.insert(0, str(folder))
    METHODS[NAME] = package.name
    yield
    del METHODS[NAME]
    sys.path.remove(str(folder))
    sys.modules.pop(package.name)


_contract_test: dict[str, type] = {}
exec(CODE[1], _contract_test)
TestNearestPatch = _contract_test["TestNearestPatch"]


def test_the_page_s_contract_test_tests_the_page_s_method(index_folder: Path) -> None:
    assert issubclass(TestNearestPatch, MethodContract)
    assert freeda.load(index_folder, method=NAME).identity["method"] == NAME


def test_the_method_is_short() -> None:
    lines = CODE[0].partition("class NearestPatch:")[2].splitlines()
    assert len([line for line in lines if line.strip()]) <= 45


def test_every_patch_gets_the_nearest_class(index_folder: Path) -> None:
    segmenter = freeda.load(index_folder, method=NAME, neighbors=3)
    prototypes = segmenter.encode_classes("cat; dog; grass").double().numpy()
    image = picture(56, 56)
    backbone = segmenter.method.backbone
    features = backbone.dense_features(segmenter.method.prepare(image), 56)[0].double().numpy()
    expected = np.einsum("cd,dhw->chw", prototypes, features).argmax(0)
    found = segmenter.segment(image, "cat; dog; grass")
    middles = np.arange(4) * 14 + 7
    np.testing.assert_array_equal(found.labels[np.ix_(middles, middles)], expected)
    assert found.paths == {"patches": 16}


def test_it_takes_settings_by_name_and_refuses_others(index_folder: Path) -> None:
    assert freeda.load(index_folder, method=NAME, neighbors=5).identity["neighbors"] == 5
    with pytest.raises(freeda.FreedaError, match=f"method {NAME} has no option or setting 'pamr'"):
        freeda.load(index_folder, method=NAME, pamr=3)
