"""docs/attacks.md against the catalogue: the same attacks, numbers, needs and settings."""

from pathlib import Path

from smdl_flower.attacks.catalogue import ATTACKS, Attack

DOCUMENT = Path(__file__).parents[2] / "docs" / "attacks.md"


def row(attack: Attack) -> str:
    """One line of the table; print all of them to write the table anew."""
    settings = ", ".join(
        f"`{field.alias or name}={_shown(field.default)}`"
        for name, field in attack.options.model_fields.items()
    )
    copies = f"{attack.copies}+" if attack.block == "C" else "1"
    needs = f"{attack.knows} | {copies} | {settings or 'none'}"
    return f"| {attack.number} | {attack.block} | `{attack.name}` | {attack.summary} | {needs} |"


def _shown(value: object) -> str:
    return '""' if value == "" else str(value)


def test_the_table_has_every_attack_as_it_is_and_no_other() -> None:
    lines = DOCUMENT.read_text("utf-8").splitlines()
    written = [line for line in lines if line.startswith("| ") and line[2].isdigit()]
    assert written == [row(attack) for attack in _in_order()]


def _in_order() -> list[Attack]:
    return sorted(ATTACKS.values(), key=lambda attack: ("ABC".index(attack.block), attack.number))
