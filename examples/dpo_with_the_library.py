"""DPO through the library's pieces: preferences, a policy, an objective, the trainer. Runs on a CPU in seconds."""

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from transformers import TrainingArguments

from omnipref.objectives import dpo, sft
from omnipref.policies.autoregressive.load import build_policy
from omnipref.policies.reference import frozen_copy
from omnipref.preferences import Message, Part, pair
from omnipref.training import PreferenceTrainer, prepare
from omnipref.worlds import DESCRIBE, alignment_pictures, careless_caption, load, tempting, truthful_caption

# Pictures with a true caption, preferred to one that names what usually goes with what is there.
rng = np.random.default_rng(0)
preferences = [
    pair(
        (Message.of("user", Part("image", picture.image), DESCRIBE),),
        truthful_caption(picture.scene),
        careless_caption(picture.scene, rng),
        record=number,
    )
    for number, picture in enumerate(alignment_pictures(200, seed=0))
    if tempting(picture.scene)
]
preferences = [one for one in preferences if one.cases["chosen"].text != one.cases["rejected"].text]

folder = Path(mkdtemp())
model, processor = load()
policy = build_policy(model, processor)
objective = dpo(beta=0.1) + 0.1 * sft()
trainer = PreferenceTrainer(
    model=model,
    args=TrainingArguments(str(folder), learning_rate=5e-5, max_steps=10, logging_steps=5, report_to="none"),
    policy=policy,
    objective=objective,
    reference=frozen_copy(model),
    train_dataset=prepare(policy, preferences, objective.needs, folder / "set_aside.jsonl"),
    processing_class=processor,
)
trainer.train()
