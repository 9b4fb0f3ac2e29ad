"""More is Less: The Pitfalls of Multi-Model Synthetic Preference Data in DPO Safety Alignment

arXiv: 2504.02193
Modality: text
In short: DPO on the best and the worst of the model's own samples, so that no author's style gives the answer away.

    L = -log sigma(beta [rho(y_w) - rho(y_l)]),  y_w, y_l = argmax, argmin of r over n samples of the model itself

Paper: with chosen answers of a stronger model and rejected ones of the model itself, the loss falls by telling
    authors apart and jailbreaks stay; best and worst of five own samples by a reward model are safest. How well a
    linear probe tells chosen from rejected says so beforehand.
Released code: 5 samples at temperature 0.5 and top-p 0.9, judged by reward-model-deberta-v3-large-v2, 10 000 prompts
    of PKU-SafeRLHF; training by another project's recipe. Its builder loses samples at the end of batches.
Here: `from_samples` and `best_worst_of_n`; `omnipref.evaluation.linear_separability` is the probe, `attack_success` the
    measure by phrases. Builders sample at temperature 1; `omnipref sample` has the code's 0.5 and 0.9 as options. The
    paper's DPO settings are not published; beta is 0.1 and the rate 5e-7 for one epoch.
Why: the probe's recipe is not published either: five folds divided by prompt, standardised features, C = 1.
"""

from __future__ import annotations

from omnipref.method import Claim, Method
from omnipref.objectives import dpo


def more_is_less(*, beta: float = 0.1, samples: int = 5, source: str | None = None) -> Method:
    """DPO on own samples, best over worst.

    Args:
        beta: strength of DPO, per nat.
        samples: of the model itself for each prompt.
        source: author whose responses are paired, where the lists hold those of several.

    Identities: `dpo(beta)`; log 2 where policy = reference, whoever wrote the pairs.

    Source: arXiv 2504.02193 and its released code.
    """
    choose = f"best_worst_of_n(source={source!r})" if source else "best_worst_of_n"
    return Method(
        objective=dpo(beta=beta),
        builders=(f"from_samples(n={samples})", choose),
        defaults={"learning_rate": 5e-7, "num_train_epochs": 1},
    )


claim = Claim(
    statement="DPO on a model's own best and worst samples teaches refusal at a loss at which other authors' do not.",
    world="responses of six words of style and a refusal, by the model itself and by a stronger author",
    run="omnipref.worlds.styles.recipes:run",
    metric="attack_success",
    direction="down",
    method="own_best_worst",
    baseline="strong_over_own",
    controls=("own_best_restyled", "own_any_two"),
    also=("all_best_worst", "strong_in_own_style_over_own"),
    show=("style_separability", "after_20", "after_60", "after_200", "loss_20", "loss_60", "loss_200"),
    options={
        "arms": {
            "own_best_worst": {"authors": ["self"]},
            "strong_over_own": {"authors": ["strong", "self"], "pairing": "first_over_second", "samples": 1},
            "own_best_restyled": {"authors": ["self"], "chosen_style": "strong"},
            "own_any_two": {"authors": ["self"], "pairing": "any_two"},
            "all_best_worst": {"authors": ["self", "strong"]},
            "strong_in_own_style_over_own": {
                "authors": ["strong_in_own_style", "self"],
                "pairing": "first_over_second",
                "samples": 1,
            },
        },
        "objective": "dpo(beta=0.1)",
        "steps": 200,
        "rate": 3.0,
        "level": 0.3,
    },
    seeds=20,
    expected=-0.18,
    note=(
        "At a training loss of 0.3 the model complies in 5 % of cases after learning from the stronger author's pairs "
        "and in 0.001 % after its own best and worst; with their chosen ones rewritten in the stronger author's style "
        "it is 2 %, so that the difference of style does the damage. 18 % was expected: the simulation that says so "
        "reached that loss at its 20th update, where it is 13 % at a loss of 0.39 here. For own samples both agree "
        "(1.7 % at 0.51 after 20 updates, a loss of 0.33 after 60). After 200 updates all recipes but pairs drawn by "
        "chance end safe. A table of probabilities has no attacks that it was not trained on, so nothing is said of "
        "those; and it is gradient descent that styles crowd out here, under Adam every probability has a step of its "
        "own. The size of the effect is that of the difference in style: with authors that a probe tells apart in 84 % "
        "to 86 % of responses, not 91 % as here and on the card, it was 0.09 and 0.01 over six seeds, with intervals "
        "that hold zero. Seeds vary much: over the first six alone, the card's number, it is 0.026 and its interval "
        "holds zero too (from -0.056 to 0.004); twenty are run instead."
    ),
)
