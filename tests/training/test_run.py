"""`omnipref train` on saved models of the real classes: text, pictures, LoRA, lists, resuming after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import factories
import pytest
import torch
from diffusion_factories import picture_pairs, save_pipeline
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from omnipref.cli import main
from omnipref.preferences import write_jsonl

SMALL = [
    *("--per-device-train-batch-size", "4", "--learning-rate", "1e-3", "--logging-steps", "1"),
    *("--training-arguments", "use_cpu=true"),
]


def rows_of_text(count: int = 12) -> list[dict]:
    return [{"prompt": f"What is {i}? ", "chosen": f"two {i}", "rejected": "three cups"} for i in range(count)]


def rows_of_pictures(folder: Path, count: int = 6) -> list[dict]:
    for i in range(2 * count):
        factories.picture(i).save(folder / f"{i}.png")
    return [
        {
            "prompt": [{"role": "user", "content": "Describe the picture."}],
            "chosen": [{"role": "assistant", "content": "a red cube"}],
            "rejected": [{"role": "assistant", "content": "a blue ball"}],
            "images": [f"{i}.png"],
        }
        for i in range(count)
    ]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [line["loss"] for line in history if "loss" in line]


def train(model: Path, data: Path, output: Path, *flags: str) -> list[float]:
    words = ["--model-name-or-path", str(model), "--dataset", str(data), "--output-dir", str(output)]
    assert main(["train", *words, *SMALL, *flags]) == 0
    return losses(output)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return factories.save(*factories.llama(), tmp_path_factory.mktemp("llama"))


def test_text_from_columns_to_a_loadable_model(llama, tmp_path):
    data = write(tmp_path / "pairs.jsonl", rows_of_text())
    found = train(llama, data, tmp_path / "run", "--max-steps", "3", "--eval-fraction", "0.25")
    assert found[0] == pytest.approx(0.693147, abs=1e-5) and found[-1] < found[0]
    results = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert "eval_rewards/accuracies" in results
    assert (tmp_path / "run" / "config.yaml").exists()
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    base = AutoModelForCausalLM.from_pretrained(llama)
    assert not torch.equal(trained.lm_head.weight, base.lm_head.weight)


@pytest.mark.parametrize("factory", [factories.llava, factories.qwen2_5_vl])
def test_pictures_with_a_visual_term_and_a_frozen_encoder(factory, tmp_path):
    model = factories.save(*factory(), tmp_path / "model")
    data = write(tmp_path / "pairs.jsonl", rows_of_pictures(tmp_path))
    built = tmp_path / "built.jsonl"
    assert main(["build", str(data), "--builders", "random_image()", "--output", str(built)]) == 0
    objective = "dpo(beta=0.1) + dpo(beta=0.1, rejected='chosen@negative_image')"
    found = train(model, built, tmp_path / "run", "--max-steps", "3", "--objective", objective)
    assert found[0] == pytest.approx(2 * 0.693147, abs=1e-5) and found[-1] < found[0]
    before, _ = factory()
    after = type(before).from_pretrained(tmp_path / "run")
    encoder = before.model.get_encoder(modality="image")
    for one, other in zip(encoder.parameters(), after.model.get_encoder(modality="image").parameters(), strict=True):
        assert torch.equal(one, other)


def test_lora_then_more_lora_on_top(llama, tmp_path):
    data = write(tmp_path / "pairs.jsonl", rows_of_text())
    lora = ["--lora-r", "4", "--max-steps", "4"]
    first = train(llama, data, tmp_path / "one", *lora)
    live = train(llama, data, tmp_path / "live", *lora, "--precompute-ref-log-probs")
    assert live == pytest.approx(first, abs=1e-5)
    second = train(llama, data, tmp_path / "two", "--adapter", str(tmp_path / "one"), "--max-steps", "2")
    # The reference is the adapter that training starts from, so the first loss is log 2 again.
    assert second[0] == pytest.approx(0.693147, abs=1e-5)
    base = AutoModelForCausalLM.from_pretrained(llama)
    assert list(PeftModel.from_pretrained(base, tmp_path / "two").peft_config) == ["default"]


def test_lists_as_lists_and_as_pairs(llama, tmp_path):
    rows = [{"prompt": f"{i}+1=", "responses": ["two", "three cups", "a"], "scores": [3, 2, 1]} for i in range(8)]
    data = write(tmp_path / "lists.jsonl", rows)
    listed = train(llama, data, tmp_path / "a", "--max-steps", "2", "--objective", "plackett_luce(beta=0.1)")
    assert listed[0] == pytest.approx(1.791759, abs=1e-5)  # log 3!
    pairs = train(llama, data, tmp_path / "b", "--max-steps", "2", "--pairs", "best_vs_worst")
    assert pairs[0] == pytest.approx(0.693147, abs=1e-5)


def test_one_objective_trains_a_diffusion_pipeline_too(tmp_path):
    save_pipeline(tmp_path / "pipeline", "epsilon")
    write_jsonl(picture_pairs(4), tmp_path / "pairs.jsonl")
    found = train(tmp_path / "pipeline", tmp_path / "pairs.jsonl", tmp_path / "run", "--max-steps", "3")
    assert found[0] == pytest.approx(0.693147, abs=1e-5)
    assert (tmp_path / "run" / "unet" / "config.json").exists()


def test_data_without_the_roles_of_the_objective_are_refused_before_training(llama, tmp_path, capsys):
    data = write(tmp_path / "pairs.jsonl", rows_of_text())
    words = ["--model-name-or-path", str(llama), "--dataset", str(data), "--output-dir", str(tmp_path / "run")]
    objective = "dpo(rejected='chosen@negative_image')"
    assert main(["train", *words, *SMALL, "--objective", objective]) == 2
    said = capsys.readouterr().err
    assert "record 0" in said and "chosen@negative_image" in said and "omnipref build" in said
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def command(model: Path, data: Path, output: Path) -> list[str]:
    words = ["--model-name-or-path", str(model), "--dataset", str(data), "--output-dir", str(output)]
    return ["-m", "omnipref", "train", *words, *SMALL, "--max-steps", "40", "--save-steps", "5"]


def test_a_killed_process_goes_on_to_the_same_numbers(llama, tmp_path):
    data = write(tmp_path / "pairs.jsonl", rows_of_text())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = [sys.executable, *command(llama, data, tmp_path / "killed")]
    process = subprocess.Popen(run, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert main(command(llama, data, tmp_path / "killed")[2:]) == 0
    assert main(command(llama, data, tmp_path / "whole")[2:]) == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def in_two_processes(*words: str) -> None:
    """`omnipref train` with these words."""
    # On a machine without accelerators, accelerate starts several processes only if told that they are several.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["-m", "omnipref", "train", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=300)
        if "terminate called without an active exception" not in done.stderr:
            break  # gloo now and then aborts when its threads are torn down, after the work is done
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("parts", [[], ["--max-batch-tokens", "64"]], ids=["whole", "parts"])
def test_two_processes_give_the_losses_of_one(llama, tmp_path, parts):
    # Lengths differ, so that one process has one part where the other has two.
    rows = [{**row, "prompt": row["prompt"] + "cup " * (i % 4 * 5)} for i, row in enumerate(rows_of_text(16))]
    data = write(tmp_path / "pairs.jsonl", rows)
    objective = "0.8 * dpo(beta=0.1) + 0.2 * bco() + sft()"
    common = ["--learning-rate", "1e-3", "--logging-steps", "1", "--max-steps", "4", "--objective", objective]
    common += ["--training-arguments", "use_cpu=true"]
    words = ["--model-name-or-path", str(llama), "--dataset", str(data)]
    batch = ["--per-device-train-batch-size", "2", *common, *parts]
    in_two_processes(*words, "--output-dir", str(tmp_path / "two"), *batch)
    one = ["train", *words, "--output-dir", str(tmp_path / "one"), "--per-device-train-batch-size", "4", *common]
    assert main(one) == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=2e-6)


def test_a_folder_of_another_run_is_not_continued(llama, tmp_path, capsys):
    data = write(tmp_path / "pairs.jsonl", rows_of_text())
    train(llama, data, tmp_path / "run", "--max-steps", "2", "--save-steps", "2")
    words = ["--model-name-or-path", str(llama), "--dataset", str(data), "--output-dir", str(tmp_path / "run")]
    other = [*words, *SMALL, "--max-steps", "4", "--objective", "ipo()"]
    assert main(["train", *other]) == 2
    assert "another configuration (objective 'dpo(beta=0.1)' -> 'ipo()')" in capsys.readouterr().err
    assert main(["train", *other, "--resume", "never"]) == 0
    assert (tmp_path / "run" / "previous-1" / "checkpoint-2").is_dir()
    longer = train(llama, data, tmp_path / "longer", "--max-steps", "2", "--save-steps", "2")
    assert len(train(llama, data, tmp_path / "longer", "--max-steps", "4")) == len(longer) + 2


def test_lora_leaves_a_frozen_encoder_alone(tmp_path):
    model = factories.save(*factories.llava(), tmp_path / "model")
    data = write(tmp_path / "pairs.jsonl", rows_of_pictures(tmp_path))
    train(model, data, tmp_path / "run", "--max-steps", "1", "--lora-r", "2")
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert "vision_tower" in config["exclude_modules"]
    names = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert names and not any("vision_tower" in name for name in names)


def test_bfloat16_computes_in_it_and_keeps_losses_in_float32(llama, tmp_path):
    data = write(tmp_path / "pairs.jsonl", rows_of_text())
    single = train(llama, data, tmp_path / "single", "--max-steps", "3")
    half = train(llama, data, tmp_path / "half", "--max-steps", "3", "--bf16")
    assert half != single
    assert half == pytest.approx(single, abs=0.02)


COMPILED = """
import sys
from torch._dynamo.utils import counters
from omnipref.cli.main import main
code = main(sys.argv[1:])
assert counters["frames"]["ok"] > 0
sys.exit(code)
"""


def test_compiled_layers_give_the_same_losses(llama, tmp_path):
    data = write(tmp_path / "pairs.jsonl", rows_of_text())
    plain = train(llama, data, tmp_path / "plain", "--max-steps", "3")
    words = ["--model-name-or-path", str(llama), "--dataset", str(data), "--output-dir", str(tmp_path / "compiled")]
    words += [*SMALL, "torch_compile=true", "torch_compile_backend=aot_eager", "--max-steps", "3"]
    # A process of its own: what the compiler keeps and warns of is its own affair.
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, "train", *words], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "compiled") == pytest.approx(plain, abs=1e-6)
    saved = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", "compiled")]
    assert saved[0].keys() == saved[1].keys()


def test_streamed_records_are_shared_out_among_workers(llama, tmp_path):
    data = write(tmp_path / "pairs.jsonl", rows_of_text(16))
    flags = ["--streaming", "--max-steps", "4", "--objective", "sft()"]
    seen = [train(llama, data, tmp_path / n, *flags, "--dataloader-num-workers", n) for n in ("0", "2")]
    # The same records, in another order: the first epoch's mean loss stays near.
    assert sum(seen[1]) == pytest.approx(sum(seen[0]), rel=0.2)


def test_reasons_of_files_with_one_name_are_all_kept(llama, tmp_path):
    bad = {"prompt": "q", "chosen": "", "rejected": "b"}
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(str(write(tmp_path / folder / "train.jsonl", [*rows_of_text(4), bad])))
    words = ["--model-name-or-path", str(llama), "--dataset", *files, "--output-dir", str(tmp_path / "run")]
    assert main(["train", *words, *SMALL, "--max-steps", "1"]) == 0
    kept = [json.loads(path.read_text())["source"] for path in sorted((tmp_path / "run").glob("*.quarantine.jsonl"))]
    assert kept == files


def test_ties_reach_an_objective_that_knows_them(llama, tmp_path):
    rows = [{"prompt": f"{i}? ", "responses": ["two", "cups", "tree"], "scores": [1, 0, 0]} for i in range(4)]
    data, output = write(tmp_path / "lists.jsonl", rows), tmp_path / "run"
    pairs = ("--pairs", "all", "--max-steps", "1", "--per-device-train-batch-size", "12")
    found = train(llama, data, output, *pairs, "--objective", "davidson_dpo()")
    # Eight wins and four ties at policy = reference, where a win has probability 1/4 and a tie 1/2: 20/12 log 2.
    assert found == pytest.approx([1.155245], abs=1e-5)
    assert train(llama, data, tmp_path / "plain", *pairs) == pytest.approx([0.693147], abs=1e-5)


def test_a_missing_file_is_told_before_the_model_is_loaded(tmp_path, capsys):
    words = ["--model-name-or-path", str(tmp_path / "no-model"), "--dataset", str(tmp_path / "no.jsonl")]
    assert main(["train", *words, "--output-dir", str(tmp_path / "run")]) == 2
    assert "no.jsonl: found no such file" in capsys.readouterr().err
    words[-1] = str(write(tmp_path / "pairs.jsonl", rows_of_text()))
    assert main(["train", *words, "--output-dir", str(tmp_path / "run")]) == 2
    assert "no-model': no such folder here" in capsys.readouterr().err


def test_a_method_leaves_its_objective_in_the_configuration(llama, tmp_path, capsys):
    data, output = write(tmp_path / "pairs.jsonl", rows_of_text()), tmp_path / "run"
    first = train(llama, data, output, "--max-steps", "2", "--method", "robust-dpo")
    saved = output / "config.yaml"
    assert "objective: robust_dpo()" in saved.read_text()
    again = tmp_path / "again"
    assert main(["train", "--config", str(saved), "--output-dir", str(again)]) == 0
    assert losses(again) == first
    assert main(["train", "--config", str(saved), "--objective", "ipo()", "--output-dir", str(again)]) == 2
    assert "brings its own objective, `robust_dpo()`" in capsys.readouterr().err


def test_a_method_names_the_builders_of_its_data(llama, tmp_path, capsys):
    data = write(tmp_path / "pairs.jsonl", rows_of_text())
    words = ["--model-name-or-path", str(llama), "--dataset", str(data), "--output-dir", str(tmp_path / "run")]
    assert main(["train", *words, *SMALL, "--method", "mapl"]) == 2
    assert "--builders intra_instructions inter_instructions" in capsys.readouterr().err


def test_settings_that_other_libraries_refuse_are_told_calmly(llama, tmp_path, capsys):
    data = write(tmp_path / "pairs.jsonl", rows_of_text())
    bare = shutil.copytree(llama, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*", "*chat*"))
    cut = shutil.copytree(llama, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:5000])
    for model, flags, message in (
        (bare, [], "bare has no tokenizer that can be read"),
        (cut, [], "cut' cannot be loaded"),
        (llama, ["--attn-implementation", "none"], "cannot be loaded"),
        (llama, ["--report-to", "nowhere"], "nowhere is not supported"),
        (llama, ["--report-to", "clearml"], "clearml, whose package is not installed"),
        (llama, ["--lora-r", "2", "--lora-target-modules", "none"], "these LoRA settings cannot be used"),
        (llama, ["--policy-args", "truncate=some"], "`policy_args.truncate` = 'some'; expected true or false"),
        (llama, ["--policy-args", "caption_dropout=0.1"], "`--policy-args` without a value clears them"),
    ):
        words = ["--model-name-or-path", str(model), "--dataset", str(data), "--output-dir", str(tmp_path / "run")]
        assert main(["train", *words, *SMALL, *flags]) == 2
        assert message in capsys.readouterr().err
