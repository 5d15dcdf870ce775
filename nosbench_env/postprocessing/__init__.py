"""Post-processing of a program: shortening, ablation, sensitivity, tuning."""

from nosbench_env.postprocessing.ablation import Ablation as Ablation
from nosbench_env.postprocessing.ablation import ablate as ablate
from nosbench_env.postprocessing.evaluator import Change as Change
from nosbench_env.postprocessing.evaluator import Evaluator as Evaluator
from nosbench_env.postprocessing.replacements import Replacement as Replacement
from nosbench_env.postprocessing.replacements import replacements as replacements
from nosbench_env.postprocessing.sensitivity import Sweep as Sweep
from nosbench_env.postprocessing.sensitivity import lr_scale as lr_scale
from nosbench_env.postprocessing.sensitivity import sensitivity as sensitivity
from nosbench_env.postprocessing.shortening import Shortening as Shortening
from nosbench_env.postprocessing.shortening import shorten as shorten
from nosbench_env.postprocessing.tuning import Tuning as Tuning
from nosbench_env.postprocessing.tuning import tune as tune
