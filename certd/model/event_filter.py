"""Which events somebody wants of all there are."""

from dataclasses import dataclass
from datetime import datetime

from certd.model.event import Event
from certd.model.subscription import type_fits


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """What is not said holds for every event."""

    types: tuple[str, ...] = ()
    """A type may end in `*`."""
    resource: str = ""
    """Its own events and those of what is below it."""
    principal: str = ""
    start_time: datetime | None = None
    """Not before."""
    end_time: datetime | None = None
    """Before."""

    def fits(self, event: Event) -> bool:
        """Returns whether an event is wanted."""
        return (
            self._of_type(event.type.value)
            and self._about(event.resource)
            and self.principal in {"", event.principal}
            and (self.start_time is None or event.time >= self.start_time)
            and (self.end_time is None or event.time < self.end_time)
        )

    def _of_type(self, event_type: str) -> bool:
        return not self.types or any(type_fits(wanted, event_type) for wanted in self.types)

    def _about(self, resource: str) -> bool:
        return not self.resource or resource == self.resource or resource.startswith(f"{self.resource}/")
