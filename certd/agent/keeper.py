"""One certificate on this machine, from the server to the program that serves it.

1. The server says which version is current.
2. It is leased, unless it is kept here, checked, and kept.
3. Its files are written, then current; the check command, the targets and the reload command get to know; the program
   is seen to show it.
4. What did not succeed is undone, with the version before, and tried again later, at once when a newer one comes.
5. The server is told.

What is known to be revoked is neither deployed nor gone back to. What is served and revoked is served until there is
another: to have none is for people to decide.

Versions that come while the program was reloaded a moment ago wait together; the newest of them is leased then.

What has been reached is on disk before the next step begins, so that an agent that died goes on from there.
"""

import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from certd.agent import commands
from certd.agent.bundle import Bundle
from certd.agent.checks import read_roots
from certd.agent.commands import StoppedError
from certd.agent.config import Certificate, Command
from certd.agent.deployment import CURRENT, Deployment, Step
from certd.agent.errors import AgentError, NotTakenYetError
from certd.agent.holdings import Holdings, current_sha256, sha256_of
from certd.agent.kept import Failure, Kept, Record
from certd.agent.log import fields, printable
from certd.agent.server import Server
from certd.agent.standing import Standing
from certd.agent.target import Target
from certd.clock import Clock
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_pb2 import Deployment as Reported

LONGEST_MESSAGE: Final = 1024
_FIRST_RETRY: Final = 30.0
_LONGEST_RETRY: Final = 3600.0

_log = logging.getLogger(__name__)


class Keeper:
    """Keeps one certificate. Not for two threads at once.

    Args:
        certificate: its configuration.
        kept: what the agent keeps of it.
        deployment: its files.
        targets: programs that take it in ways of their own.
        clock: tells the time.
        stop: set when the agent ends.
        step: told between steps.
    """

    def __init__(
        self,
        certificate: Certificate,
        *,
        kept: Kept,
        deployment: Deployment,
        targets: Sequence[Target],
        clock: Clock,
        stop: threading.Event,
        step: Step = lambda _: None,
    ) -> None:
        self.certificate = certificate
        self._deployment = deployment
        self._targets = tuple(targets)
        self._clock = clock
        self._stop = stop
        self._step = step
        self._holdings = Holdings(kept)
        self._bundle = self._holdings.deployed()
        self._current_version = 0
        self._current_sha256 = ""
        """Of the certificate of that version, as far as it was told."""
        self._waiting: tuple[int, str | None] | None = None
        """Version and folder that programs were told of, while others have not come for them."""
        self._reload_time: datetime | None = None
        """When the last reload ended."""
        self._held = 0
        """Version that waits, for the last reload was a moment ago; 0: none."""

    @property
    def standing(self) -> Standing:
        """Where it stands."""
        bundle = self._bundle
        return Standing(
            version=self._record.deployed,
            certificate_sha256=sha256_of(bundle),
            not_after=None if bundle is None else bundle.not_after,
            current_version=self._current_version,
            current_sha256=self._current_sha256,
            failure=self._record.failure,
            is_revoked=self._holdings.serves_revoked,
            is_current_revoked=self._holdings.is_revoked(self._current_sha256),
        )

    @property
    def _record(self) -> Record:
        return self._holdings.record

    def restore(self) -> None:
        """Has what was reached before served again, without the server: repairs files, ends what was interrupted."""
        record = self._record
        self._warn()
        if record.deploying:
            interrupted = self._holdings.bundle(record.deploying)
            if interrupted is not None:
                self._try(interrupted)
                return
            _log.warning("version %d was interrupted and is not kept", record.deploying, extra=self._fields())
        if self._bundle is None:
            return
        if self._is_intact(self._bundle) and not record.deploying:
            self._restore_targets(self._bundle)
        else:
            _log.warning("files are missing, damaged or configured otherwise: writing them", extra=self._fields())
            self._try(self._bundle)

    def forgive(self) -> None:
        """Has a version that failed be tried again at once."""
        failure = self._record.failure
        if failure is not None:
            self._holdings.write(replace(self._record, failure=replace(failure, retry_time=0)))

    @property
    def retry_in(self) -> float | None:
        """Seconds until a version that failed is tried again; None when none is."""
        failure = self._record.failure
        return None if failure is None else max(0.0, failure.retry_time - self._clock.now().timestamp())

    @property
    def held_for(self) -> float | None:
        """Seconds that a version waits yet, for the last reload was a moment ago; None when none does."""
        return self._quiet_left() if self._held else None

    def advance(self, server: Server, association: Association | None) -> None:
        """Brings it to what the server has, and tells the server.

        `association` is what was told of it; it is asked for when there is none. Raises CallFailed and CertdError of
        the server, and StoppedError; what goes wrong on this machine is recorded.
        """
        held, self._held = self._held, 0
        found = server.association(self.certificate.association) if association is None else association
        if association is not None and self._leads_back(found):
            # Back to an earlier version, or to another certificate of the name, goes only who has asked.
            found = server.association(self.certificate.association)
        if self._holdings.learn(found):
            failed = 0 if self._record.failure is None else self._record.failure.version
            self._prune(self._record.deployed, self._record.previous, self._record.deploying, failed)
        wanted = self._current_version = found.current_version
        self._current_sha256 = current_sha256(found)
        if wanted < 1:
            return
        if found.managed_certificate_uid != self._record.source:
            # Numbers of versions begin anew with it.
            self._bundle = None
            self._holdings.write(Record(source=found.managed_certificate_uid, revoked=self._record.revoked))
        if self._holdings.is_revoked(self._current_sha256):
            self._stay()
        elif not self._is_served(wanted) and not self._has_to_wait(wanted):
            if self._is_too_soon(wanted) and not self._holdings.serves_revoked:
                self._held = wanted
                if wanted != held:
                    _log.info("version %d waits, for a reload was a moment ago", wanted, extra=self._fields())
            else:
                bundle = self._holdings.bundle(wanted, self._current_sha256) or self._leased(server, found, wanted)
                if bundle is not None:
                    self._try(bundle)
        self._warn()
        self._report(server, anew=not found.HasField("deployment"))

    def _leads_back(self, found: Association) -> bool:
        """Returns whether a server tells of an earlier version than the one served, or of another in its place."""
        record, told = self._record, current_sha256(found)
        if found.current_version < record.deployed or record.source not in {"", found.managed_certificate_uid}:
            return True
        return found.current_version == record.deployed and bool(told) and told != record.deployed_sha256

    def _stay(self) -> None:
        """Stays with what is served, or goes back to it: the current version is revoked, and there is no newer one."""
        record, bundle = self._record, self._bundle
        if record.failure is not None and record.failure.version != record.deployed:
            # It is not tried again.
            record = replace(record, failure=None)
            self._holdings.write(record)
        if bundle is None or self._has_to_wait(bundle.version):
            return
        if record.deploying not in {0, record.deployed} and self._holdings.serves_revoked:
            # Neither is good, and nothing is gained by a change.
            return
        if record.deploying or not self._is_intact(bundle):
            self._try(bundle)

    def _warn(self) -> None:
        finding = self.standing.finding
        if finding:
            _log.error("%s", finding, extra=self._fields())

    def _is_served(self, version: int) -> bool:
        record, bundle = self._record, self._bundle
        if record.deployed != version or record.deploying or bundle is None:
            return False
        if self._current_sha256 not in {"", sha256_of(bundle)}:
            _log.warning("version %d is another certificate on the server than here", version, extra=self._fields())
            return False
        if not self._is_intact(bundle):
            _log.warning("files are missing or damaged: writing them", extra=self._fields())
            return False
        if self._clock.now() >= bundle.not_after:
            _log.error("version %d is served and has ended", version, extra=self._fields())
        if record.failure is not None:
            # What failed is current no more.
            self._holdings.write(replace(record, failure=None))
        return True

    def _has_to_wait(self, version: int) -> bool:
        failure, left = self._record.failure, self.retry_in
        # Longer than the longest means that the clock was set back.
        return failure is not None and failure.version == version and 0 < (left or 0) <= 2 * _LONGEST_RETRY

    def _is_too_soon(self, version: int) -> bool:
        # What waits for somebody to come for it was told already, and is not reloaded for again.
        told = self._waiting is not None and self._waiting[0] == version
        return self.certificate.reload is not None and not told and self._quiet_left() > 0

    def _quiet_left(self) -> float:
        """Returns the seconds until the program may be reloaded for another version."""
        interval = self.certificate.reload_interval
        if self._reload_time is None:
            return 0.0
        left = interval - (self._clock.now() - self._reload_time).total_seconds()
        # More than all of it means that the clock was set back.
        return left if 0 < left <= interval else 0.0

    def _leased(self, server: Server, association: Association, version: int) -> Bundle | None:
        """Returns a version, kept; None when it may not be served, which is recorded."""
        try:
            roots = () if self.certificate.trust_roots is None else read_roots(self.certificate.trust_roots)
        except AgentError as error:
            self._failed(version, error)
            return None
        # What could not be kept is not leased: it would be, with every try.
        self._holdings.write(self._record)
        bundle = server.lease(association, version, name=self.certificate.name, roots=roots)
        self._step("leased")
        try:
            self._holdings.check(bundle, self._clock.now(), certificate_sha256=self._current_sha256)
            self._holdings.keep(bundle)
        except Exception as error:  # noqa: BLE001  # What cannot even be read is not leased again and again.
            self._failed(version, self._foreseen(error))
            return None
        self._step("kept")
        return bundle

    def _try(self, bundle: Bundle) -> None:
        """Has programs serve a bundle; what they do not take is undone and recorded."""
        record, version = self._record, bundle.version
        before = self._way_back(bundle)
        try:
            self._holdings.check(bundle, self._clock.now())
            name = self._deployment.write(bundle) if self.certificate.files else None
            if self._holdings.is_deployed(bundle) and not record.deploying and name == self._deployment.current():
                # Only what is kept was lost.
                self._served(bundle)
                self._restore_targets(bundle)
                return
            self._holdings.write(replace(record, deploying=version))
        except Exception as error:  # noqa: BLE001  # As what is foreseen, it waits for a time.
            self._failed(version, self._foreseen(error))
            return
        self._step("deploying")
        told = [False]
        try:
            self._hand_over(bundle, name, told)
        except StoppedError:
            raise
        except NotTakenYetError as error:
            # The version stays one that is being deployed, until it is tried again: when somebody came, and regularly.
            self._waiting = version, name
            self._holdings.write(replace(self._record, failure=None))
            _log.info("version %d waits: %s", version, error.message, extra=self._fields())
            return
        except Exception as error:  # noqa: BLE001  # Whatever it is, half of a version stays nowhere.
            if before:
                self._roll_back(before, told=told[0])
            # With nothing to return to the files stay: a program may need them to start at all.
            self._failed(version, self._foreseen(error), deploying=0 if before else version)
            return
        self._served(bundle)
        _log.info("version %d is served", version, extra=self._fields(not_after=bundle.not_after.isoformat()))

    def _way_back(self, bundle: Bundle) -> int:
        """Returns what to return to when a bundle is not taken; 0 for nothing.

        What has ended serves nobody, and nobody goes back to what is revoked.
        """
        record = self._record
        if record.deployed == 0 or self._holdings.is_deployed(bundle) or self._holdings.serves_revoked:
            return 0
        try:
            if self._bundle is not None:
                self._holdings.check(self._bundle, self._clock.now())
        except AgentError:
            return 0
        return record.deployed

    def _hand_over(self, bundle: Bundle, name: str | None, told: list[bool]) -> None:
        # Who was told does not need to hear it each time that one who has not come is waited for.
        again = self._waiting == (bundle.version, name) and (name is None or name == self._deployment.current())
        self._waiting = None
        if name is not None:
            self._deployment.flip(name)
        if not again:
            self._run(self.certificate.check, bundle)
        self._step("checked")
        told[0] = True
        self._tell(bundle, reload=not again)
        self._step("told")
        if self.certificate.probe is not None:
            # Late, as agents that probe nothing do without what it loads.
            from certd.agent.probe import probe

            probe(self.certificate.probe, bundle.certificate, stop=self._stop)
        self._step("seen")

    def _tell(self, bundle: Bundle, *, reload: bool) -> None:
        waiting: NotTakenYetError | None = None
        for target in self._targets:
            try:
                target.deploy(bundle)
            except NotTakenYetError as error:
                waiting = error
        if reload:
            self._reload(bundle)
        if waiting is not None:
            raise waiting

    def _roll_back(self, version: int, *, told: bool) -> None:
        """Returns to a version; all programs are told when they were told of the other one, whichever refuses."""
        bundle = self._bundle
        try:
            if self.certificate.files:
                self._deployment.flip(
                    self._deployment.folder_of(version, self._record.deployed_sha256)
                    if bundle is None
                    else self._deployment.write(bundle)
                )
            self._step("back")
        except Exception as error:  # noqa: BLE001  # Programs may have what they had.
            self._not_back(version, error)
        if not told or bundle is None:
            return
        programs: list[Callable[[Bundle], None]] = [target.deploy for target in self._targets]
        # At once: what it has now is what it did not take.
        programs.append(self._reload)
        for tell in programs:
            try:
                tell(bundle)
            except StoppedError:
                raise
            except NotTakenYetError:
                continue
            except Exception as error:  # noqa: BLE001  # The others are to have it back.
                self._not_back(version, error)

    def _not_back(self, version: int, error: Exception) -> None:
        message = self._foreseen(error).message
        _log.error("the way back to version %d failed: %s", version, message, extra=self._fields())

    def _foreseen(self, error: Exception) -> AgentError:
        """Returns an error with a message for people, also for one that is a mistake in here."""
        if isinstance(error, AgentError):
            return error
        _log.error("unexpected", exc_info=error, extra=self._fields())
        return AgentError(f"unexpected: {type(error).__name__}")

    def _served(self, bundle: Bundle) -> None:
        record = self._record
        previous = record.previous if record.deployed in {0, bundle.version} else record.deployed
        self._bundle = bundle
        self._holdings.write(
            replace(
                record,
                deployed=bundle.version,
                deployed_sha256=sha256_of(bundle),
                previous=previous,
                deploying=0,
                failure=None,
            )
        )
        self._step("served")
        self._prune(bundle.version, previous)

    def _prune(self, *versions: int) -> None:
        """Removes what is of no other version than these, and what is revoked, but for what is served."""
        stay = self._holdings.prune(versions)
        if self.certificate.files:
            self._deployment.prune(keep=tuple(map(self._deployment.folder_of, stay)))

    def _failed(self, version: int, error: AgentError, *, deploying: int | None = None) -> None:
        record = self._record
        earlier = record.failure
        count = earlier.count + 1 if earlier is not None and earlier.version == version else 1
        delay = min(_FIRST_RETRY * 2.0 ** min(count - 1, 16), _LONGEST_RETRY) * random.uniform(0.75, 1.25)  # noqa: S311  # It spreads agents in time.
        retry_time = self._clock.now() + timedelta(seconds=delay)
        failure = Failure(
            version=version,
            message=printable(error.message[:LONGEST_MESSAGE]),
            count=count,
            retry_time=retry_time.timestamp(),
        )
        kept = record.deploying if deploying is None else deploying
        self._holdings.write(replace(record, deploying=kept, failure=failure))
        self._prune(version, record.deployed, record.previous)
        _log.error(
            "version %d is not served: %s", version, error.message, extra=self._fields(retry=retry_time.isoformat())
        )

    def _report(self, server: Server, *, anew: bool) -> None:
        """Tells the server what is served, when it was not told yet."""
        record, bundle = self._record, self._bundle
        if record.failure is not None:
            deployment = Reported(state=Reported.FAILED, version=record.failure.version, message=record.failure.message)
        elif record.deployed and bundle is not None:
            deployment = Reported(
                state=Reported.SERVING, version=record.deployed, certificate_sha256=bundle.certificate_sha256
            )
        else:
            return
        text = f"{deployment.state} {deployment.version} {deployment.certificate_sha256.hex()} {deployment.message}"
        if text == record.reported and not anew:
            return
        server.report(self.certificate.association, deployment)
        self._holdings.write(replace(record, reported=text))
        self._step("reported")

    def _is_intact(self, bundle: Bundle) -> bool:
        if not self.certificate.files:
            return True
        try:
            name = self._deployment.current()
            return name is not None and self._deployment.is_intact(name, bundle)
        except AgentError as error:
            _log.warning("%s", error.message, extra=self._fields())
            return False

    def _restore_targets(self, bundle: Bundle) -> None:
        for target in self._targets:
            try:
                target.restore(bundle)
            except AgentError as error:
                _log.warning("%s", error.message, extra=self._fields())

    def _reload(self, bundle: Bundle) -> None:
        try:
            self._run(self.certificate.reload, bundle)
        finally:
            self._reload_time = self._clock.now()

    def _run(self, command: Command | None, bundle: Bundle) -> None:
        if command is None:
            return
        environment = {
            "CERTD_NAME": self.certificate.name,
            "CERTD_VERSION": str(bundle.version),
            "CERTD_DIRECTORY": str(self.certificate.directory / CURRENT),
        }
        commands.run(command, environment=environment, stop=self._stop)

    def _fields(self, **more: str) -> dict[str, dict[str, str]]:
        return fields(certificate=self.certificate.name, **more)
