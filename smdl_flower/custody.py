"""The chain of custody of an accusation: what was fixed, what was handed over, what was found.

From the commitments and the registry, of accused customers alone. How the suspect came into the
owner's hands is the owner's own account.
"""

from smdl_flower import clock, commitments
from smdl_flower.evidence import Event, Verdict
from smdl_flower.home import OwnerHome


def of(home: OwnerHome, verdict: Verdict, obtained: str = "") -> tuple[Event, ...]:
    """Return the steps in their order.

    Args:
        home: Of the owner.
        verdict: Just found.
        obtained: How the suspect was come by, in the owner's words.
    """
    steps = [*_committed(home, verdict), *_delivered(home, verdict)]
    steps.sort(key=lambda event: event.at)
    if obtained:
        steps.append(Event("", f"Suspect obtained, as the owner says: {obtained}"))
    asked = verdict.queries is not None
    now = clock.now()
    what = "Suspect asked; digest of its answers" if asked else "Suspect examined; its digest"
    return (*steps, Event(now, what, verdict.suspect.sha256))


def _committed(home: OwnerHome, verdict: Verdict) -> list[Event]:
    models = {accusation.model_id for accusation in verdict.accused}
    if not models:
        return []
    found = []
    for number, statement in enumerate(commitments.of_home(home), start=1):
        if statement.model_id not in models:
            continue
        stamped = commitments.stamp_file(home, number).exists()
        what = (
            f"Base model {statement.model_id}, the way of reading and the keys of "
            f"{statement.predicate['customers']} customers committed to"
            + (", time-stamped" if stamped else "")
            + "; digest of the statement"
        )
        found.append(Event(str(statement.predicate["time"]), what, statement.digest))
    return found


def _delivered(home: OwnerHome, verdict: Verdict) -> list[Event]:
    accused = {(a.model_id, a.customer) for a in verdict.accused}
    issued = [
        Event(c.issued_at, f"Copy issued to {c.customer}; digest of its weights", c.weights_sha256)
        for model_id in sorted({model_id for model_id, _ in accused})
        for c in home.registry.copies(model_id)
        if (model_id, c.customer) in accused
    ]
    signed = [
        Event(
            d.delivered_at, f"Copy delivered; {d.customer}'s node signed for it", d.weights_sha256
        )
        for d in home.registry.deliveries()
        if (d.model_id, d.customer) in accused
    ]
    return issued + signed
