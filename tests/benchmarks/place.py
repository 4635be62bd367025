# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of one run share; parts are started when the first benchmark wants them."""

from contextlib import ExitStack
from functools import cached_property

from bare import Bare, bare_instance
from instance import Instance, running_instance
from rich.console import Console


class Place:
    """One run of benchmarks.

    Args:
        console: For progress.
        stack: Ends what was started.
        slots: Cores that the pool advertises, one pilot each.
        jobs: Jobs per throughput run.
        factor: Multiplies the repetitions.
    """

    def __init__(self, console: Console, stack: ExitStack, *, slots: int, jobs: int, factor: float) -> None:
        self._console = console
        self._stack = stack
        self._slots = slots
        self.factor = factor
        self.jobs = jobs

    @cached_property
    def instance(self) -> Instance:
        """A running instance with a private pool."""
        return self._stack.enter_context(running_instance(self._slots))

    @cached_property
    def bare(self) -> Bare:
        """A running instance without pilots."""
        return self._stack.enter_context(bare_instance())

    def repetitions(self, usual: int) -> int:
        """Return how often to repeat something."""
        return max(1, round(usual * self.factor))

    def say(self, text: str) -> None:
        """Report progress."""
        self._console.print(text, style="dim")
