"""Diffusion models as policies: a unit is one denoising step, its log-likelihood minus the denoising error."""

from omnipref.policies.diffusion.cache import TensorCache
from omnipref.policies.diffusion.latents import ClipText, Codec, Conditioner, PictureCodec
from omnipref.policies.diffusion.loading import load_diffusion_policy
from omnipref.policies.diffusion.noising import TARGETS, Draws, Noising, draw_all
from omnipref.policies.diffusion.policy import DiffusionPolicy, EncodedCases
from omnipref.policies.diffusion.sampling import generate, generate_latents, initial_noise

__all__ = [
    "TARGETS",
    "ClipText",
    "Codec",
    "Conditioner",
    "DiffusionPolicy",
    "Draws",
    "EncodedCases",
    "Noising",
    "PictureCodec",
    "TensorCache",
    "draw_all",
    "generate",
    "generate_latents",
    "initial_noise",
    "load_diffusion_policy",
]
