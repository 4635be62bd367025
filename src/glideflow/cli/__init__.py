# SPDX-License-Identifier: Apache-2.0
"""The command `glideflow`: the list of its commands, and what its errors look like.

Each command's module is imported when the command is used, so that help and completion stay quick.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from cyclopts import App, CycloptsError, Group
from rich.console import Console
from rich.text import Text

from glideflow import __version__
from glideflow.errors import GlideflowError, UserError

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130

HELP = """Run tasks of many jobs on HTCondor and the grid, and follow them in Prefect.

A first task: write `hello.yaml` as `docs/tutorial.md` shows, then

* glideflow up
* glideflow submit hello.yaml --wait
* glideflow outputs hello --to results

Exit status: 0 all is well, 1 the task or a service failed, 2 wrong use.
"""


@dataclass(frozen=True)
class Command:
    """One entry of the list of commands."""

    name: str
    target: str
    """Module below `glideflow.cli`, and the function or app in it."""
    group: Group
    summary: str
    """What the list says; the command's own page is its docstring."""


TASKS = Group("Tasks", sort_key=1)
RESOURCES = Group("Resources and data", sort_key=2)
INSTANCE = Group("Instance", sort_key=3)
OTHER = Group("Other", sort_key=4)

COMMANDS = (
    Command("submit", "submit:submit", TASKS, "Submit a task, or several of one file."),
    Command("wait", "submit:wait", TASKS, "Wait until a task has ended."),
    Command("tasks", "listing:tasks", TASKS, "List tasks, the newest first."),
    Command("jobs", "listing:jobs", TASKS, "List the jobs of a task."),
    Command("explain", "explain:explain", TASKS, "Say what a job or a task is waiting for, or why it ended."),
    Command("failures", "failures:failures", TASKS, "Count the failed jobs of a task by reason, exit code and site."),
    Command("policy", "policy:policy", TASKS, "Show the rules for failed jobs that are in force."),
    Command("log", "log:log", TASKS, "Print what a job has printed."),
    Command("outputs", "outputs:outputs", TASKS, "List, or fetch, the files that a task has made."),
    Command("kill", "control:kill", TASKS, "End a task or a job."),
    Command("retry", "control:retry", TASKS, "Run failed and cancelled jobs of a task, or one job, again."),
    Command("pause", "control:pause", TASKS, "Hold back a task or a job: no pilot takes it until it is resumed."),
    Command("resume", "control:resume", TASKS, "Let a paused task or job go on."),
    Command("priority", "control:priority", TASKS, "Change the priority of a task and all its jobs, or of one job."),
    Command("pilots", "listing:pilots", RESOURCES, "List pilots, the newest first."),
    Command("sites", "listing:sites", RESOURCES, "List sites, their pilots and the last decision about each."),
    Command("shares", "shares:shares", RESOURCES, "Show what VOs, groups and users may have, have used and hold."),
    Command("datasets", "listing:datasets", RESOURCES, "List datasets, or the files of one."),
    Command("up", "service:up", INSTANCE, "Start the instance of this home."),
    Command("down", "service:down", INSTANCE, "Stop the instance of this home."),
    Command("status", "service:status", INSTANCE, "Say what of the instance runs."),
    Command("doctor", "doctor:doctor", INSTANCE, "Check each part of the instance and say what to do."),
    Command("pool", "pool:pool_app", INSTANCE, "A private HTCondor pool on this machine."),
    Command("database", "database:database_app", INSTANCE, "Dump and restore the database."),
    Command("schema", "about:schema", OTHER, "Print the JSON schema of task files."),
    Command("version", "about:version", OTHER, "Print the version."),
)


def build_app(*, summaries: bool = False) -> App:
    """Return the command line.

    Args:
        summaries: For the list of all commands: take their summaries, and import none of them.
    """
    app = App(
        name="glideflow",
        help=HELP,
        version=__version__,
        # Reading Markdown takes a third of the time of the whole list.
        help_format="plaintext" if summaries else "markdown",
        result_action="return_value",
        group_commands=OTHER,
        suppress_keyboard_interrupt=False,
    )
    for command in COMMANDS:
        if summaries:
            # Nothing of the command itself is needed: a help text given with it would stay with an app of several.
            app.command(_listed, name=command.name, group=command.group, help=command.summary)
        else:
            app.command(f"{__name__}.{command.target}", name=command.name, group=command.group)
    return app


def _listed() -> None:
    """Stand for a command in the list of commands."""


def main() -> None:
    """Run the command line and exit."""
    raise SystemExit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: The words after `glideflow`.

    Returns:
        Exit status: 0, 1 (the task or a service failed), 2 (wrong use), 130 (interrupted).
    """
    known = {command.name for command in COMMANDS}
    app = build_app(summaries=not arguments or arguments[0] not in known)
    try:
        status = app(list(arguments) or ["--help"], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _fail(_usage_sentence(error, arguments), WRONG_USE)
    except GlideflowError as error:
        return _fail(str(error), WRONG_USE if isinstance(error, UserError) else FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader, for example `head`, has enough; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: a sentence instead of a traceback
        kind = type(error).__name__
        return _fail(f"an error of glideflow itself, {kind}: {error}; GLIDEFLOW_DEBUG=1 shows where", FAILED)
    return status if isinstance(status, int) else 0


def _usage_sentence(error: CycloptsError, arguments: Sequence[str]) -> str:
    command = f" {arguments[0]}" if arguments and not arguments[0].startswith("-") and error.target else ""
    return f"{' '.join(str(error).split())} See `glideflow{command} --help`."


def _fail(text: str, status: int) -> int:
    """Print an error, one line per problem, and return the exit status."""
    if _debug():
        traceback.print_exc()
    console = Console(stderr=True, highlight=False)
    for line in text.splitlines():
        console.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)
    return status


def _debug() -> bool:
    from glideflow.settings import load_settings  # noqa: PLC0415 - slow to import, and only needed here

    try:
        return load_settings().debug
    except GlideflowError:
        return False
