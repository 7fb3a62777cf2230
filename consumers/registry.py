"""A schema registry, asked beside the event loop: what is known is answered at once, what is not is `NotYet`.

    serde ─▶ answers.get_schema(7) ─▶ known? ─▶ the schema
                                        │ no: a thread asks the client ─▶ known, or refused, or trouble: again, later
                                        └─▶ NotYet(why, again_in=…); whoever asked asks again

A (de)serializer of the client is given `Registry.answers` for its client. Whatever it asks, now or in a later version, is
a question here: a method's name and arguments. A question is asked of the registry only while somebody asks it here:
nothing is scheduled, so nothing goes on for a partition that has left.

On a thread without an event loop (a sync handler, a script) `ask` waits a little before it says `NotYet`.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from consumers.registry_client import Verdict, judge, new_client
from consumers.settings import RegistrySettings
from engine.errors import NotYet

REQUESTS_MAX = 4
"""At once. One that hangs until its time-out does not stop the others."""
BACKOFF_FIRST_S = 0.2
ABSENT_AGAIN_S = 0.25
"""A follower says for a moment that it has no such schema, when its leader has just accepted it."""
ABSENT_S = 30.0
"""How long an answer of 'there is none' or 'refused' holds. A schema that is registered after all is found then."""
LOOK_FIRST_S, LOOK_MAX_S = 0.01, 0.25
"""Between two looks at a request under way."""
WAIT_S = 3.0
"""Longest a thread without a loop waits: well within the time for which a transaction may idle."""
OPEN_MAX = 1_000
"""Questions without an answer. Beyond, the oldest is forgotten, and asked anew by whoever still wants it."""

Question = tuple[str, tuple[Any, ...], tuple[tuple[str, Any], ...]]

log = logging.getLogger("consumers.registry")

_UNKNOWN: Any = object()


class RegistryRefusedError(Exception):
    """The registry has no such schema, or does not take it: a definite answer. The message says which."""


@dataclass(slots=True)
class _Asked:
    """A question without an answer so far."""

    since: float | None = None
    """When the request under way began."""
    due_at: float = 0.0
    failures: int = 0
    absences: int = 0
    reason: str | None = None


class Registry:
    """One schema registry, for every format of a process. Safe to use from any thread."""

    def __init__(self, settings: RegistrySettings, *, now: Callable[[], float] = time.monotonic) -> None:
        """Raises `ConfigurationError` for wrong settings, or where the client's optional parts are not installed."""
        self.settings = settings
        self._now = now
        self.answers: Any = _Answers(self)
        """In the place of the client, for (de)serializers."""
        self._client = new_client(settings)
        self._known: dict[Question, Any] = {}
        self._refused: dict[Question, tuple[str, float]] = {}
        self._open: dict[Question, _Asked] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(REQUESTS_MAX, thread_name_prefix="registry")
        self._is_closed = False

    def close(self) -> None:
        """Ask nothing more. Requests under way end by their time-out."""
        with self._lock:
            self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What the client's method of that name answers.

        Raises:
            NotYet: It is not known yet.
            RegistryRefusedError: There is no answer to be had.
        """
        question = (name, args, tuple(kwargs.items()))
        answer = self._known.get(question, _UNKNOWN)
        return self._find_out(question) if answer is _UNKNOWN else answer

    def _find_out(self, question: Question) -> Any:
        until = None if _is_on_a_loop() else self._now() + WAIT_S
        while True:
            answer = self._look(question)
            if not isinstance(answer, NotYet):
                return answer
            wait_s = answer.again_in.total_seconds()
            if until is None or self._now() + wait_s > until:
                raise answer
            time.sleep(wait_s)

    def _look(self, question: Question) -> Any:
        """The answer, or when to look again; the registry is asked where that is due."""
        now = self._now()
        with self._lock:
            if question in self._known:
                return self._known[question]
            if question in self._refused:
                text, until = self._refused[question]
                if now < until:
                    raise RegistryRefusedError(text)
                del self._refused[question]
            asked = self._asked(question)
            if asked.since is None and now >= asked.due_at and not self._is_closed:
                asked.since = now
                self._threads.submit(self._request, question, asked)
            if asked.since is None:
                again_s = max(asked.due_at - now, LOOK_FIRST_S)
            else:
                again_s = min(max((now - asked.since) / 4, LOOK_FIRST_S), LOOK_MAX_S)
            return NotYet(asked.reason, again_in=timedelta(seconds=again_s))

    def _asked(self, question: Question) -> _Asked:
        asked = self._open.get(question)
        if asked is None:
            while len(self._open) >= OPEN_MAX:
                del self._open[next(iter(self._open))]
            asked = self._open[question] = _Asked()
        return asked

    def _request(self, question: Question, asked: _Asked) -> None:
        """Ask the registry; in a thread."""
        name, args, kwargs = question
        try:
            answer = getattr(self._client, name)(*args, **dict(kwargs))
        except Exception as error:  # noqa: BLE001  # whatever the client raises is judged
            self._failed(question, asked, *judge(error))
            return
        if asked.failures:
            log.info("schema registry: %s is there after %d failures", described(question), asked.failures)
        with self._lock:
            while len(self._known) >= self.settings.known_max:
                del self._known[next(iter(self._known))]
            self._known[question] = answer
            self._open.pop(question, None)

    def _failed(self, question: Question, asked: _Asked, verdict: Verdict, text: str) -> None:
        now = self._now()
        what = described(question)
        with self._lock:
            asked.since = None
            if verdict is Verdict.ABSENT:
                asked.absences += 1
            if verdict is Verdict.REFUSED or asked.absences > 1:
                self._refused.pop(question, None)
                while len(self._refused) >= self.settings.known_max:
                    del self._refused[next(iter(self._refused))]
                self._refused[question] = (f"the schema registry has no {what}: {text}", now + ABSENT_S)
                if verdict is Verdict.REFUSED:
                    self._refused[question] = (f"the schema registry refuses {what}: {text}", now + ABSENT_S)
                self._open.pop(question, None)
                return
            if verdict is Verdict.ABSENT:
                asked.due_at = now + ABSENT_AGAIN_S
                return
            asked.failures += 1
            longest_s = self.settings.retry_max.total_seconds()
            backoff_s = min(BACKOFF_FIRST_S * 2 ** min(asked.failures - 1, 20), longest_s)
            asked.due_at = now + backoff_s * random.uniform(0.5, 1.0)
            before, asked.reason = asked.reason, f"schema registry: {what}: {text}"
        if before != asked.reason:
            log.warning("%s", asked.reason)


class _Answers:
    """What a (de)serializer takes for its client: every method of it is a question."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def config(self) -> dict[str, Any]:
        """For executors of data contract rules, of which there are none: no secrets."""
        return {}

    def __getattr__(self, name: str) -> Any:
        return partial(self._registry.ask, name)


def described(question: Question) -> str:
    """A question for people: what is asked for."""
    name, args, _ = question
    match name, args:
        case (("get_schema" | "get_schema_by_guid"), (which, *_)):
            return f"schema {which}"
        case "get_version", (subject, version, *_):
            return f"version {version} of subject {subject!r}"
        case (("lookup_schema" | "register_schema" | "register_schema_full_response"), (subject, *_)):
            return f"schema of this program under subject {subject!r}"
        case _:
            return name


def _is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
