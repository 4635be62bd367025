# SPDX-License-Identifier: Apache-2.0
"""The command line as a whole: help, exit status, and what errors look like."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_endpoint import Answer, FakeEndpoint

from glideflow import __version__, cli
from glideflow.cli import COMMANDS, build_app, run

SINGLE = [command for command in COMMANDS if command.name not in ("pool", "database")]


@pytest.fixture
def endpoint(cli_endpoint: FakeEndpoint) -> FakeEndpoint:
    """The endpoint of the command line."""
    return cli_endpoint


def test_help_lists_every_command_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f" {command.name} " in text
    assert "Exit status: 0" in text


def test_without_arguments_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "Usage: glideflow COMMAND" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    heavy = ("prefect", "httpx", "pydantic", "ruamel", "psycopg", "fastapi", "htcondor2", "cryptography")
    code = (
        "import sys; from glideflow.cli import run; run(['--help']); "
        f"sys.exit(', '.join(name for name in {heavy} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", SINGLE, ids=lambda command: command.name)
def test_each_command_has_a_page_with_an_example_and_its_options(
    command: cli.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command.name, "--help"]) == 0
    text = capsys.readouterr().out
    assert command.summary in text
    assert f"glideflow {command.name}" in text.partition("For example:")[2]
    assert ("--json" in text) is (command.name not in ("up", "down"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_of_the_list_can_be_loaded(command: cli.Command) -> None:
    assert build_app()[command.name].help


def test_every_parameter_is_described() -> None:
    app = build_app()
    for command in SINGLE:
        function = app[command.name].default_command
        described = re.findall(r"^    (\w+): ", inspect.getdoc(function) or "", re.MULTILINE)
        assert set(inspect.signature(function).parameters) == set(described), command.name


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["tsaks"], 'Unknown command "tsaks". Did you mean "tasks"?'),
        (["tasks", "--sate", "x"], "Unknown option: --sate. Did you mean --state? See `glideflow tasks --help`."),
        (["tasks", "--no-json"], "Unknown option: --no-json"),
        (["submit"], 'Command "submit" parameter FILE requires an argument. See `glideflow submit --help`.'),
        (["jobs", "12", "--limit", "x"], 'unable to convert "x" into int'),
        (["jobs", "12", "--limit", "-1"], "Must be >= 0"),
        (["jobs", "12", "13"], "Unused Tokens"),
        (["kill"], "give either a task, or a job with --job"),
        (["retry", "1", "--job", "2"], "give either a task, or a job with --job"),
        (["submit", "none.yaml"], "none.yaml: cannot be read: No such file or directory"),
    ],
)
def test_wrong_use_ends_with_2_and_one_sentence(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert text in captured.err
    assert captured.err.count("\n") == 1


def test_a_home_without_an_instance_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLIDEFLOW_HOME", str(tmp_path))
    assert run(["tasks"]) == 2
    assert f"there is no instance in {tmp_path}: run `glideflow up`" in capsys.readouterr().err


def test_wrong_settings_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLIDEFLOW_HOME", str(tmp_path))
    (tmp_path / "glideflow.yaml").write_text("prot: 1\n")
    assert run(["tasks"]) == 2
    assert "line 1: key `prot`: unknown; did you mean `port`? allowed: " in capsys.readouterr().err


def test_an_endpoint_that_is_gone_ends_with_1(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLIDEFLOW_SERVER_URL", "http://127.0.0.1:1")
    assert run(["tasks"]) == 1
    assert "the endpoint http://127.0.0.1:1 does not answer" in capsys.readouterr().err


def test_the_endpoints_refusal_is_shown_as_it_is(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.on("GET", "/v1/jobs/z.3/explain", Answer.problem(404, "not_found", "there is no job z.3 [bold]"))
    assert run(["explain", "z.3"]) == 2
    assert capsys.readouterr().err == "error: there is no job z.3 [bold]\n"


def test_an_error_of_our_own_is_a_sentence_without_a_traceback(
    endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.get("/v1/sites", {"items": [{}]})
    assert run(["sites"]) == 1
    assert capsys.readouterr().err.startswith(
        "error: an error of glideflow itself, KeyError: 'name'; GLIDEFLOW_DEBUG=1"
    )


def test_debug_shows_the_traceback(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLIDEFLOW_DEBUG", "1")
    assert run(["kill"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(endpoint: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: object) -> Answer:
        raise AssertionError

    endpoint.on("GET", "/v1/sites", interrupt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glideflow.client.Client.sites", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(["sites"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    code = "import sys; from glideflow.cli import main; sys.argv[1:] = ['schema']; main()"
    command = f'{sys.executable} -c "{code}" | true; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_version_and_schema_need_no_endpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    assert run(["version", "--json"]) == 0
    assert run(["schema"]) == 0
    lines, _, rest = capsys.readouterr().out.partition("\n")
    assert lines == __version__
    document, end = json.JSONDecoder().raw_decode(rest)
    assert document["glideflow"] == __version__
    assert json.loads(rest[end:])["title"] == "glideflow task"
    assert run(["--version"]) == 0


def test_only_the_console_prints() -> None:
    for path in Path(cli.__file__).parent.glob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert "print" not in names, path
