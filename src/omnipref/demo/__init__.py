"""The main job: a small vision-language model that hallucinates is aligned, measured and reported on."""

from omnipref.demo.run import run, run_arm

__all__ = ["run", "run_arm"]
