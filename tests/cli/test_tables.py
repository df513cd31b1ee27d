import pytest

from smdl_flower.cli import tables
from smdl_flower.evidence import PayloadReading, Suspect, Verdict
from smdl_flower.fingerprint.decoys import DecoySummary


def test_a_remark_is_printed_as_it_is_and_not_as_markup(capsys):
    verdict = Verdict(
        suspect=Suspect("x", "0" * 64, "safetensors"),
        model_id="m1",
        max_false_accusation=1e-6,
        customers=1,
        hypotheses=2,
        accused=(),
        payload=PayloadReading("01" * 16, None, 17, 0.47),
        alignment="none",
        highest_unnamed_score=0.1,
        remarks=("[bold]not markup[/bold]",),
        decoys=DecoySummary(1000, 0.01, 0.99, 3.2),
    )
    tables.print_verdict(verdict)
    printed = capsys.readouterr().out
    assert "[bold]not markup[/bold]" in printed
    assert "Nobody is named" in printed


def test_a_refused_copy_is_printed_with_its_reason(capsys):
    row = {"accuracy": 0.5, "matching_bits": 304, "carrier_score": 350.0}
    tables.print_copies(
        0.9,
        [
            {**row, "customer": "kept", "path": "x", "reason": ""},
            {**row, "customer": "lost", "path": None, "reason": "too low"},
        ],
    )
    lines = capsys.readouterr().out.splitlines()
    assert any("kept" in line and "yes" in line for line in lines)
    assert any("lost" in line and "too low" in line for line in lines)


@pytest.mark.parametrize(("value", "text"), [(None, "not checked"), (0.9876, "98.8%")])
def test_an_accuracy_that_was_not_measured_is_not_made_up(value, text, capsys):
    tables.print_copies(value, [])
    assert text in capsys.readouterr().out
