"""What remains to be done for a study, and how long it takes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...models.clip import load_clip
from ...models.encoder import encoder_names
from ...models.pretrained import MissingWeightsError, load_pretrained
from ...trainers.checkpoint import saved_step
from ...trainers.config import TrainConfig, encoder_taps
from ...trainers.dry_run import seconds_per_step
from ...trainers.schedule import duration, time_left
from ...trainers.trainer import Trainer
from .runs import StudyRun
from .scores import StudyScorer


@dataclass(frozen=True)
class StudyPlan:
    """The remaining work of a study; mappings are by the key of the run."""

    states: Mapping[str, str]  # "done", "trained, not scored", "pending", …
    skipped: Mapping[str, str]  # why a run cannot be trained
    to_train: list[TrainConfig]  # unfinished runs, and unfinished warm-ups that they need

    def summary(self, seconds: float | None) -> str:
        """Return the number of runs by state, and the time at so many seconds per step."""
        counts = ", ".join(f"{n} {state}" for state, n in Counter(self.states.values()).items())
        text = f"{len(self.states)} runs ({counts}), {len(self.to_train)} trainings with warm-ups"
        if seconds is None:
            return text
        left = sum(time_left(saved_step(config.out), config) for config in self.to_train)
        time = duration(seconds * left)
        return f"{text}: about {time} ({seconds:.2g} s/step in a trial; excludes evaluation)"


def all_encoders(config: TrainConfig) -> list[str]:
    """Return the encoders that a run uses, and the model of its text, if any."""
    clip = [config.clip.model] if config.text else []
    return [config.encoder.name, *encoder_names(encoder_taps(config)), *clip]


def make_study_plan(scorer: StudyScorer, runs: Mapping[str, StudyRun]) -> StudyPlan:
    """Check what is scored and trained, and which encoders have no weights on this machine."""
    missing = dict[str, str]()
    clips = {c.model: c.weights for c in (run.config.clip for run in runs.values())}
    for name in {name for run in runs.values() for name in all_encoders(run.config)}:
        try:
            if name in clips:
                load_clip(name, clips[name])
            else:
                load_pretrained(name, scorer.study.weights_dir)
        except MissingWeightsError as error:
            missing[name] = f"skipped: {error}"
        except ValueError:
            pass  # damaged weights: reported by the runs
    states, skipped, to_train = dict[str, str](), dict[str, str](), dict[str, TrainConfig]()
    for key, run in runs.items():
        left, steps = steps_left(run.config), run.config.steps
        if reason := next(filter(None, map(missing.get, all_encoders(run.config))), None):
            states[key], skipped[key] = "skipped: no weights", reason
        elif scorer.cached(key):
            states[key] = "done"
        elif not left:
            states[key] = "trained, not scored"
        else:
            states[key] = "pending" if left == steps else f"resume at step {steps - left}"
            to_train |= {c.out.name: c for c in (run.start, run.config) if steps_left(c)}
    return StudyPlan(states, skipped, list(to_train.values()))


def time_step(run: StudyRun) -> float:
    """Estimate the time of a training step of a run; nothing is written to its directory.

    All processes of a launch must call it together.

    Raises:
        ValueError: what training would raise for this run.
    """
    config = replace(run.config, init=None) if steps_left(run.start) else run.config
    return seconds_per_step(Trainer(replace(config, workers=0, cache_images=False)))


def steps_left(config: TrainConfig) -> int:
    """Return the steps that a run has yet to train."""
    return max(0, config.steps - saved_step(config.out))
