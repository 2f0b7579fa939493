"""The package as a whole: what importing it does, and what is shipped."""

from __future__ import annotations

import ast
import configparser
import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from cc_kraken.model import VERSION
from tests.lab import image

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "cc_kraken").rglob("*.py"))
SCHEMAS = sorted(
    str(path.relative_to(ROOT / "schema")) for path in (ROOT / "schema").rglob("*.json")
)

IMPORT_ALONE = """
import sys
before = set(sys.modules)
import cc_kraken
print(sorted(set(sys.modules) - before))
print(hasattr(cc_kraken, "schema"), sorted(cc_kraken.meta))
"""

IMPORT_ALL = """
import importlib, pkgutil, cc_kraken
for found in pkgutil.walk_packages(cc_kraken.__path__, "cc_kraken."):
    if found.name != "cc_kraken.__main__":
        importlib.import_module(found.name)
print([name for name in ("schema",) if hasattr(cc_kraken, name)])
print(type(cc_kraken.meta).__name__, callable(cc_kraken.handle))
"""

HEAVY = ("boto3", "botocore", "jsonschema", "yaml", "cloudinit")


def python(code: str, *, executable: str = sys.executable, **options: object) -> str:
    """The output of a fresh interpreter; ``cwd`` decides what it finds."""
    done = subprocess.run(
        [executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        **{"cwd": ROOT, **options},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_else() -> None:
    loaded, facts = python(IMPORT_ALONE).splitlines()
    assert loaded == "['cc_kraken']"
    assert facts == "False ['distros', 'frequency', 'id']"


def test_no_module_of_ours_takes_a_name_that_cloud_init_looks_at() -> None:
    # An attribute "schema", or another "meta" or "handle", costs the stage.
    assert python(IMPORT_ALL).splitlines() == ["[]", "dict True"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_source_is_python_3_9(source: Path) -> None:
    ast.parse(source.read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_heavy_imports_are_inside_functions(source: Path) -> None:
    for node in ast.parse(source.read_text()).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] not in HEAVY, f"line {node.lineno}"


def test_one_version_everywhere() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    first = (ROOT / "debian" / "changelog").read_text().splitlines()[0]
    version = config["metadata"]["version"]
    assert version == VERSION
    assert re.fullmatch(rf"cloud-init-kraken \({re.escape(version)}\) .*", first)
    assert f"cloud-init-kraken_{version}_all.deb" in (ROOT / "README.md").read_text()


# -------------------------------------------------------- what is distributed


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist and the wheel that was made out of it."""
    base = tmp_path_factory.mktemp("built")
    tree = base / "tree"
    tree.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("cc_kraken", "schema"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    (tree / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "operations.md", tree / "docs")
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", base, tree],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return base


@pytest.mark.long
def test_the_wheel_holds_every_module_and_schema(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name in SCHEMAS:
            content = archive.read(f"cc_kraken/schemas/{name}")
            assert content == (ROOT / "schema" / name).read_bytes()
        page = archive.read("cc_kraken/docs/operations.md")
        assert page == (ROOT / "docs" / "operations.md").read_bytes()
    assert SCHEMAS
    assert {str(path.relative_to(ROOT)) for path in SOURCES} <= names
    assert not [name for name in names if name.startswith(("tests", "schema/"))]


@pytest.mark.long
def test_the_source_archive_holds_what_a_build_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.cfg", "pyproject.toml", "LICENSE", "README.md"} <= names
    assert {f"schema/{name}" for name in SCHEMAS} <= names
    assert "docs/operations.md" in names


@pytest.mark.long
def test_the_index_would_take_what_is_built(built: Path) -> None:
    """twine checks the metadata, and that the README can be rendered."""
    files = [*built.glob("*.whl"), *built.glob("*.tar.gz")]
    assert len(files) == 2
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, files)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


@pytest.mark.long
def test_make_packages_leaves_all_and_their_sums(tmp_path: Path) -> None:
    old = tmp_path / "cloud-init-kraken_0.0.1_all.deb"
    old.touch()
    done = subprocess.run(
        ["make", "-C", str(ROOT), "packages", f"DIST={tmp_path}"],
        capture_output=True,
        text=True,
        env={**os.environ, "MAKEFLAGS": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = {path.name for path in tmp_path.iterdir()} - {"SHA256SUMS"}
    assert {fnmatch.filter(names, one) != [] for one in ("*.deb", "*.rpm")} == {True}
    assert len(fnmatch.filter(names, "*.rpm")) == 3  # one for each distribution
    assert len(names) == 6 and old.name not in names
    assert all(VERSION in name for name in names)
    sums = (tmp_path / "SHA256SUMS").read_text()
    assert {line.split()[1] for line in sums.splitlines()} == names
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path)
    assert checked.returncode == 0


def test_what_the_debian_package_ships_besides_the_program() -> None:
    debian = ROOT / "debian"
    assert (debian / "docs").read_text().split() == [
        "README.md",
        "CHANGELOG.md",
        "docs",
    ]
    assert (debian / "examples").read_text().split() == ["examples/*"]
    assert (debian / "manpages").read_text().split() == ["debian/cc-kraken.8"]


def test_the_tests_of_the_installed_package() -> None:
    """autopkgtest runs those that need Debian's packages alone."""
    tests = ROOT / "debian" / "tests"
    control = dict(
        line.split(": ") for line in (tests / "control").read_text().splitlines()
    )
    depends = control["Depends"].split(", ")
    assert {"@", "python3-pytest"} <= set(depends)
    script = tests / control["Tests"]
    assert os.access(script, os.X_OK)
    text = script.read_text()
    ignored = {
        ROOT / f"tests/unit/{one}.py"
        for one in re.findall(r"\w+/test_\w+(?![\w.])", text)
    }
    folders = re.findall(r"tests/unit/(\w+)(?![\w/])", text)
    foreign = (
        *("tests.lab", "tests.fleet", "tests.mutations", "tests.unit.terraform"),
        *("botocore", "hcl2"),
    )
    assert ignored and {"act", "decide", "proof"} <= set(folders)
    assert all(path.is_file() for path in ignored)
    for folder in folders:
        for path in set((ROOT / "tests" / "unit" / folder).glob("test_*.py")) - ignored:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom):
                    assert not str(node.module).startswith(foreign), path.name


LOCATE = """
import json
from cc_kraken.machine import schema_files as schemafiles
print(json.dumps({name: schemafiles.path(name) for name in %r}))
"""


def located(out: str) -> dict[str, str]:
    """SHA-256 of each schema file that was found, by name."""
    return {
        name: hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for name, path in json.loads(out).items()
    }


def test_the_schema_is_found_in_a_checkout_and_installed(
    built: Path, tmp_path: Path
) -> None:
    installed = tmp_path / "venv"
    venv.create(installed, with_pip=False)
    executable = str(installed / "bin" / "python")
    (site,) = python(
        "import sysconfig; print(sysconfig.get_path('purelib'))",
        executable=executable,
    ).splitlines()
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    there = python(LOCATE % SCHEMAS, executable=executable, cwd=tmp_path)
    here = python(LOCATE % SCHEMAS)
    assert site in there and site not in here
    assert located(there) == located(here)


def test_the_lab_packs_every_file_that_the_package_names() -> None:
    packed = {str(path.relative_to(ROOT)) for path in image.package_files(ROOT)}
    for listing in ("docs", "examples", "manpages"):
        for line in (ROOT / "debian" / listing).read_text().split():
            assert any(
                fnmatch.fnmatch(name, pattern)
                for name in packed
                for pattern in (line, f"{line}/*")
            ), (listing, line)
