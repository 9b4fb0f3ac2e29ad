"""The report: self-contained, made from plain data alone, safe against hostile text, its conclusions from numbers."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from omnipref.config import ReportConfig
from omnipref.errors import ConfigError, DataError
from omnipref.evaluation import (
    Answer,
    Arm,
    Contrast,
    Curve,
    Estimate,
    Exhibit,
    Metric,
    Report,
    png_base64,
    print_table,
    read_report,
    render_page,
    render_report,
    results_table,
    run_facts,
    summary_figure,
    write_report,
)
from omnipref.evaluation.findings import findings, verdict
from omnipref.evaluation.marking import missing, segments
from omnipref.evaluation.report import report as report_command

HOSTILE = "<script>alert('x')</script> & \"cup\" {{ 7 * 7 }}"
CHAIR = Metric("chair_i", "CHAIR_i", "lower", note="What is invented.")
SENSITIVITY = Metric("sens", "sensitivity", "higher", share=False)
LENGTH = Metric("length", "length", share=False)


def about(value, half=0.01):
    return Estimate(value, value - half, value + half, 100)


def example():
    picture = png_base64(Image.fromarray(np.zeros((32, 32, 3), np.uint8)))
    rows = (
        Arm("base", {"chair_i": about(0.27), "sens": about(5.0), "length": about(4)}, "Before"),
        Arm("text", {"chair_i": about(0.03), "sens": about(2.0), "length": about(2)}, "Methods", "answers only"),
        Arm("anchor", {"chair_i": about(0.035)}, "Controls"),
    )
    steps = tuple(float(step) for step in range(5))
    curves = tuple(
        Curve(panel, arm, steps, tuple(0.1 * step for step in steps))
        for panel in ("loss", "rewards/margins")
        for arm in ("text", "anchor")
    )
    answers = (Answer("base", "a cup and a fork", ("fork",), ("cup",)), Answer("text", "a fork", ("fork",)))
    gallery = (Exhibit(picture, ("cup", "tree"), answers, "describe"),)
    contrasts = (Contrast("pairs", "text", "base"), Contrast("the rest", "text", "anchor"))
    columns = (CHAIR, SENSITIVITY, LENGTH)
    footer = {"command": "omnipref demo", "seed": "0"}
    return Report("A title", "One sentence.", columns, rows, curves, gallery, contrasts, ("A caveat.",), footer)


def test_json_and_back_gives_an_equal_report():
    made = example()
    assert Report.from_json(json.loads(made.to_json())) == made


def test_rendering_again_from_the_file_gives_the_same_page(tmp_path):
    page = write_report(example(), tmp_path)
    first = page.read_bytes()
    page.unlink()
    assert render_report(tmp_path).read_bytes() == first
    assert read_report(tmp_path) == example()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_the_page_loads_nothing_from_anywhere():
    page = render_page(example())
    assert "http" not in page
    assert not re.search(r"<(script|link|iframe|object|embed|base)\b", page)
    assert not re.search(r"@import|url\((?!#)", page)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'\bsrc="([^"]*)"', page))
    assert all(target.startswith("#") for target in re.findall(r'\bhref="([^"]*)"', page))


def test_every_inner_reference_has_its_target():
    page = render_page(example())
    targets = set(re.findall(r'\bid="([^"]*)"', page))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= targets


def test_the_page_says_everything():
    page = render_page(example())
    expected = (
        "A title",
        "One sentence.",
        "27.0",
        "26.0 to 28.0",
        "answers only",
        "A caveat.",
        "omnipref demo",
        "Methods",
    )
    assert [text for text in expected if text not in page] == []
    assert '<span class="wrong" title="not in the picture">fork</span>' in page
    assert '<span class="right" title="in the picture">cup</span>' in page
    assert "missing: tree" in page and "missing: cup, tree" in page
    assert "lower is better" in page and "higher is better" in page


def test_hostile_text_is_shown_and_not_run():
    hostile = Answer("base", HOSTILE, wrong=("cup", "<b>"), right=("alert",))
    made = example()
    rows = (replace(made.rows[0], note=HOSTILE), *made.rows[1:])
    exhibit = replace(made.gallery[0], answers=(hostile,), present=(HOSTILE,), prompt=HOSTILE)
    curve = replace(made.curves[0], panel=HOSTILE)
    page = render_page(
        replace(
            made,
            title=HOSTILE,
            summary=HOSTILE,
            metrics=(replace(CHAIR, label=HOSTILE, note=HOSTILE),),
            rows=rows,
            gallery=(exhibit,),
            notes=(HOSTILE,),
            footer={HOSTILE: HOSTILE},
            curves=(curve,),
        )
    )
    assert "<script" not in page and "<b>cup" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page and " 49 " not in page


def test_a_report_of_nothing_but_a_title_renders():
    page = render_page(Report("Only this", "And this."))
    assert "Only this" in page and "<table" not in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.pop("title"), "title"),
        (lambda value: value.update(titel="x"), "did you mean `title`"),
        (lambda value: value.update(rows=3), "field `rows`"),
        (lambda value: value["rows"][1]["metrics"]["sens"].update(low="1"), r"rows\[1\].metrics.sens.low"),
        (lambda value: value["findings"][0].update(arm="txt"), "arm `txt`"),
        (lambda value: value["rows"][1].update(name="base"), "different names"),
        (lambda value: value["metrics"][0].update(better="smaller"), "smaller"),
    ],
)
def test_a_broken_report_file_is_refused_with_its_place(change, message):
    value = json.loads(example().to_json())
    change(value)
    with pytest.raises(DataError, match=message):
        Report.from_json(value)


def test_a_value_that_is_not_finite_is_not_written(tmp_path):
    bad = replace(example(), rows=(Arm("base", {"sens": about(float("nan"))}),), findings=())
    with pytest.raises(ValueError):
        write_report(bad, tmp_path)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("better", "arm", "control", "expected"),
    [("lower", 0.03, 0.27, 1), ("lower", 0.27, 0.03, -1), ("higher", 0.27, 0.03, 1), ("lower", 0.030, 0.035, 0)],
)
def test_verdicts_come_from_intervals_and_direction(better, arm, control, expected):
    metric = replace(CHAIR, better=better)
    assert verdict(metric, about(arm), about(control)).better == expected


def test_a_paired_difference_decides_where_there_is_one():
    apart = verdict(CHAIR, about(0.030), about(0.035))
    paired = verdict(CHAIR, about(0.030), about(0.035), Estimate(-0.005, -0.008, -0.002))
    assert (apart.better, paired.better) == (0, 1)
    assert paired.text == "CHAIR_i −0.5 points (−0.8 to −0.2)"


def test_findings_compare_what_both_arms_have_and_change_with_the_numbers():
    first, second = findings(example())
    assert first.headline == "Better: CHAIR_i. Worse: sensitivity."
    assert [verdict.metric.key for verdict in first.verdicts] == ["chair_i", "sens"]
    assert second.headline == "Not separable from chance: CHAIR_i."
    made = example()
    turned = replace(made, rows=(replace(made.rows[0], metrics=made.rows[1].metrics), *made.rows[1:]))
    assert findings(turned)[0].headline == "Not separable from chance: CHAIR_i, sensitivity."


def test_marking_takes_whole_words_and_keeps_the_text():
    answer = Answer(
        "a", "A cup, cupboard and CUP of tea (fire truck)", wrong=("fire truck", "tea"), right=("cup", "tea")
    )
    parts = segments(answer)
    assert "".join(part.text for part in parts) == answer.text
    marked = [(part.text, part.mark) for part in parts if part.mark]
    assert marked == [("cup", "right"), ("CUP", "right"), ("tea", "wrong"), ("fire truck", "wrong")]
    assert missing(Exhibit("", ("cup", "fork"), ()), answer) == ["fork"]


def test_the_figure_is_drawn_as_png_and_svg(tmp_path):
    png = summary_figure(example(), tmp_path / "a.png", after=["text"], metrics=["chair_i", "sens"])
    with Image.open(png) as picture:
        assert picture.width > 800
    svg = summary_figure(example(), tmp_path / "a.svg", pictures=1).read_text()
    assert "<svg" in svg
    with pytest.raises(DataError, match="did you mean `text`"):
        summary_figure(example(), tmp_path / "b.png", after=["txt"])


@pytest.mark.parametrize("width", [200, 60, 30])
def test_the_terminal_table_shows_every_number_at_any_width(width):
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        print_table(example().rows, example().metrics, caption="95 %", console=console)
    text = captured.get()
    assert all(number in text for number in ("27.0", "26.0 to 28.0", "3.0", "5.0", "–", "95 %"))
    assert max(map(len, text.splitlines())) <= width


def test_markup_in_a_name_is_only_text():
    console = Console(width=100)
    with console.capture() as captured:
        console.print(results_table([Arm("[red]x[/red]", {"chair_i": about(0.1)})], [CHAIR]))
    assert "[red]x[/red]" in captured.get()


def test_run_facts_have_what_is_needed_to_repeat():
    facts = run_facts("omnipref demo --seed 3", 3)
    assert facts["command"] == "omnipref demo --seed 3" and facts["seed"] == "3"
    assert "torch" in facts["versions"] and "cores" in facts["machine"]


def training_run(folder, values=(0.7, 0.5, float("nan"))):
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "epoch": 0.1, "loss": value, "rewards/margins": step * 0.1, "eval_runtime": 3.0}
        for step, value in enumerate(values, 1)
    ]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": lines}))
    (folder / "config.yaml").write_text("objective: dpo(beta=0.1)\n")
    metrics = {"accuracy": {"value": 0.71, "low": 0.65, "high": 0.76, "n": 200}}
    (folder / "eval.json").write_text(json.dumps({"metrics": metrics}))
    return str(folder)


def test_any_training_run_gets_a_report(tmp_path):
    run = training_run(tmp_path / "run")
    page = report_command(ReportConfig(runs=[run], output=str(tmp_path / "out" / "page.html")))
    text = page.read_text()
    assert "loss 0.7 to 0.5" in text and "71.0 % (65.0 to 76.0)" in text and "dpo(beta=0.1)" in text
    assert "1 logged values of loss are not finite" in text
    assert "eval_runtime" not in text
    data = json.loads((tmp_path / "out" / "page.json").read_text())
    assert [curve["panel"] for curve in data["curves"]] == ["loss", "rewards/margins"]


def test_several_runs_are_told_apart_by_their_folders(tmp_path):
    runs = [training_run(tmp_path / name / "run") for name in ("a", "b")]
    page = report_command(ReportConfig(runs=runs, output=str(tmp_path / "p.html"), title="Two rates"))
    data = json.loads(page.with_suffix(".json").read_text())
    assert data["title"] == "Two rates"
    assert [row["name"] for row in data["rows"]] == ["a/run", "b/run"]


def test_the_last_checkpoint_speaks_for_an_unfinished_run(tmp_path):
    training_run(tmp_path / "run" / "checkpoint-9", (0.7, 0.6))
    training_run(tmp_path / "run" / "checkpoint-10", (0.7, 0.4))
    page = report_command(ReportConfig(runs=[str(tmp_path / "run")], output=str(tmp_path / "p.html")))
    assert "loss 0.7 to 0.4" in page.read_text()


def test_a_finished_report_is_rendered_again(tmp_path):
    first = write_report(example(), tmp_path / "demo").read_text()
    page = report_command(ReportConfig(runs=[str(tmp_path / "demo")], output=str(tmp_path / "p.html")))
    assert page.read_text() == first


def test_runs_that_cannot_be_reported_on_are_refused(tmp_path):
    run = training_run(tmp_path / "run")
    write_report(example(), tmp_path / "demo")
    (tmp_path / "empty").mkdir()
    output = str(tmp_path / "p.html")
    with pytest.raises(DataError, match="nothing to report on"):
        report_command(ReportConfig(runs=[str(tmp_path / "empty")], output=output))
    with pytest.raises(ConfigError, match="same folder twice"):
        report_command(ReportConfig(runs=[run, run], output=output))
    with pytest.raises(ConfigError, match="finished report"):
        report_command(ReportConfig(runs=[run, str(tmp_path / "demo")], output=output))
    with pytest.raises(ConfigError, match="`runs`"):
        report_command(ReportConfig(runs=[], output=output))
    with pytest.raises(DataError, match=r"\.json"):
        report_command(ReportConfig(runs=[run], output=str(tmp_path / "p.json")))
