"""Extras that a network makes of other extras and that is trained with the policy; it is not needed for inference."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import TrainerCallback

from omnipref.errors import CapabilityError, ConfigError
from omnipref.policies.autoregressive.backbone import blocks_of, language_model
from omnipref.scores import LEARNED_EXTRAS, Scores

FILE = "learned_extras.safetensors"
"""Weights of the networks, in every checkpoint and beside the trained model."""
WEIGHT_DECAY = 0.01
SHARDED = {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM}
"""Ways to train in which an optimiser knows the weights of one model only."""


class MaskNetwork(nn.Module):
    """SparsePO's network: from states of the reference before a unit to the unit's weight, at least 0.

    `g_l = ReLU(w_l · LN(h_l) + b_l)` for each block, `m = ReLU(Σ_l a_l g_l)`, with one normalisation for all blocks.
    It starts near 1 everywhere (`b_l = 1`, `a_l = 1/L`, `w_l · LN(h_l)` of standard deviation 0.02): with weights of
    random sign many masks are 0 from the start, where no gradient reaches them.

    Args:
        blocks: L.
        width: D, features of a state.
        seed: of `w`.

    Example:
        >>> MaskNetwork(2, 4)(torch.zeros(1, 3, 2, 4)).detach()
        tensor([[1., 1., 1.]])

    Source: arXiv 2410.05102 and its released code (`simple_all`, without dropout, which its trainer switches off).
    """

    def __init__(self, blocks: int, width: int, seed: int = 0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(0.02 * width**-0.5 * torch.randn(blocks, width, generator=draw))
        self.bias = nn.Parameter(torch.ones(blocks))
        self.share = nn.Parameter(torch.full((blocks,), 1 / blocks))

    def forward(self, ref_hidden: Tensor) -> Tensor:
        """Masks `[N, U]` of states `[N, U, L, D]`; beside these, memory for one block's states is taken."""

        def gate(state_NUD: Tensor, block: int) -> Tensor:
            normal_NUD = self.norm(state_NUD.to(self.weight.dtype))
            return torch.relu((normal_NUD * self.weight[block]).sum(-1) + self.bias[block])

        gates = [
            checkpoint(gate, state_NUD, block, use_reentrant=False, preserve_rng_state=False)
            for block, state_NUD in enumerate(ref_hidden.unbind(2))
        ]
        return torch.relu(torch.stack(gates, -1) @ self.share)  # type: ignore[arg-type]


def mask_network(model: nn.Module, seed: int) -> MaskNetwork:
    """A network for the states of a model's blocks.

    Args:
        model: the policy, whose reference has the same sizes.
        seed: of its weights.

    Raises:
        CapabilityError: the model has no blocks that tokens go through.
    """
    blocks = len(blocks_of(model))
    return MaskNetwork(blocks, language_model(model).config.get_text_config().hidden_size, seed)  # type: ignore[union-attr,operator]


NETWORKS: Mapping[str, Callable[[nn.Module, int], nn.Module]] = {"learned_mask": mask_network}
"""What makes each of `LEARNED_EXTRAS`: from the policy's model and a seed to a network whose `forward` takes what the
extra reads, by name, and gives it, `[N, U]`."""


@dataclass
class LearnedExtras(TrainerCallback):
    """The networks that an objective's extras ask for, trained beside the policy's model; build it with `learned_by`.

    They are whole on every process, which average their gradients, and have a group of the optimiser of their own, with
    a weight decay of 0.01 and a gradient norm that is clipped apart from the policy's.

    Args:
        networks: by the extra's name; may be empty.
        accelerator: the trainer's.
    """

    networks: nn.ModuleDict
    accelerator: Accelerator

    def asked(self, extras: Collection[str]) -> frozenset[str]:
        """What the policy must give for these extras."""
        read = (LEARNED_EXTRAS[_base(name)] for name in self.networks)
        return frozenset(extras).difference(self.networks.keys()).union(*read)

    def added(self, scores: Scores, extras: Collection[str]) -> Scores:
        """The scores with learned extras, and with none but these.

        Args:
            scores: with the extras `asked(extras)`.
            extras: what the objective reads.
        """
        if not self.networks:
            return scores
        made = dict(scores.extras)
        for name, network in self.networks.items():
            value_NU = network(**{read: scores.extras[read] for read in LEARNED_EXTRAS[_base(name)]})
            made[name] = torch.where(scores.mask, value_NU, 0.0)
        return replace(scores, extras={name: value for name, value in made.items() if name in extras})

    def join(self, optimizer: torch.optim.Optimizer) -> None:
        """Have an optimiser train the networks too."""
        if self.networks:
            optimizer.add_param_group({"params": list(self.networks.parameters()), "weight_decay": WEIGHT_DECAY})

    @torch.no_grad()
    def share_gradients(self) -> None:
        """Give every process the mean of all processes' gradients."""
        weights = list(self.networks.parameters())
        if self.accelerator.num_processes == 1 or not weights:
            return
        flat = torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in weights])
        mean = self.accelerator.reduce(flat, reduction="mean")
        for weight, gradient in zip(weights, mean.split([w.numel() for w in weights]), strict=True):  # type: ignore[union-attr]
            weight.grad = gradient.view_as(weight).clone()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Clip the networks' gradients."""
        if self.networks and args.max_grad_norm:
            nn.utils.clip_grad_norm_(self.networks.parameters(), args.max_grad_norm)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop gradients that are used; the trainer drops those of its model alone."""
        self.networks.zero_grad()

    def save(self, folder: Path) -> None:
        """Write the networks' weights, atomically; nothing where there is none."""
        if self.networks:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f"{FILE}.tmp"
            save_file({name: value.detach().cpu() for name, value in self.networks.state_dict().items()}, temporary)
            temporary.replace(folder / FILE)

    def load(self, folder: Path) -> None:
        """Take the networks' weights from a checkpoint.

        Raises:
            ConfigError: it has none.
        """
        if not self.networks:
            return
        if not (folder / FILE).exists():
            names = ", ".join(self.networks)
            raise ConfigError(
                f"found no {FILE} in {folder}; expected the weights of {names}, which the objective reads"
            )
        self.networks.load_state_dict(load_file(folder / FILE))


def learned_by(extras: Collection[str], model: nn.Module, accelerator: Accelerator, seed: int) -> LearnedExtras:
    """The networks for those of an objective's extras that are learned.

    Args:
        extras: names; `learned_mask` and `learned_mask@2` are two networks, apart in their first weights.
        model: what is trained.
        accelerator: the trainer's.
        seed: of the weights.

    Raises:
        CapabilityError: a name is followed by something else than `@` and a whole number, or the model has no such
            states.
        ConfigError: the weights are trained in shards.
    """
    names = sorted(name for name in extras if _base(name) in LEARNED_EXTRAS)
    for name in names:
        if not re.fullmatch(r"\w+(@\d+)?", name):
            raise CapabilityError(
                f"found the extra `{name}`; expected a whole number after `@`, as in `learned_mask@2`"
            )
    if names and accelerator.distributed_type in SHARDED:
        raise ConfigError(
            f"found the extras {', '.join(names)}, which a network makes that is whole on every process, in a run that "
            f"shards its weights ({accelerator.distributed_type.value}); expected one process or DDP. To mend: launch "
            "without FSDP and DeepSpeed, with a LoRA where memory is short, or read `ref_activation` instead"
        )
    made = {
        name: NETWORKS[_base(name)](model, 1_009 * seed + int(name.partition("@")[2] or 1)).to(accelerator.device)
        for name in names
    }
    return LearnedExtras(nn.ModuleDict(made), accelerator)


def _base(name: str) -> str:
    return name.partition("@")[0]
