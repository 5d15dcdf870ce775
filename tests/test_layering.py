"""The order of the modules: each imports only from what stands below it (while type checking, anything goes)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom to the top; modules on one line may import each other.
LAYERS = [
    {"functions", "drawing"},
    {"program"},
    {"grammar"},
    {"known_programs", "search_space"},
    {"compiled", "compiled.lowering", "compiled.native", "compiled.cuda"},
    {"compiled.schedule", "canonical", "compiled.probe_machine"},
    {"compiled.bytecode", "compiled.cpu", "compiled.torch_ops", "compiled.probe_code", "probes", "simplification"},
    {"notation", "compiled.interpreter", "constant_search"},
    {"python_import", "export.names"},
    {"program_argument", "export.step", "export.infix", "export.latex", "export.json_file", "export.python_step"},
    {"export.torch_code"},
    {"export.optax_code"},
    {"export"},
    {"compiled.device"},
    {"optimizer", "costs"},
    {"tuned_program", "step_time"},
    {"optimizer_config"},
    {"baselines", "config_spaces"},
    {"candidate_argument"},
    {"tasks"},  # names only: imports the tasks themselves when asked to make one
    {"tasks.task"},
    {"tasks.candidates"},
    {"tasks.training", "tasks.priors", "tasks.pfn_model", "tasks.mlp_data"},
    {"tasks.pfn_population"},
    {"tasks.pfn_data"},
    {"tasks.pfn_training"},
    {"tasks.pfn", "tasks.toy", "tasks.mlp", "tasks.worker_pool", "fingerprints"},
    {"identity"},
    {"store.schema", "store.filesystems"},
    {"store.sqlite", "store.postgresql"},
    {"store.database"},
    {"store.leases"},
    {"store.result_store"},
    {"store"},
    {"result_key", "agreement"},
    {"portable", "store_survey", "rekeying"},
    {"exchange", "shipped_results", "pruning", "verification"},
    {"oracle", "tasks.worker"},  # a worker is a program of its own: it makes a task and trains
    {"program_env"},
    {"env"},
    {"token_env", "edit_env", "boards"},
    {"vector_env"},
    {"sb3"},
    {"wrappers"},
    {"rllib"},
    {"agents"},
    {"doctor", "studies", "studies.identities", "studies.processes", "studies.trainings", "studies.cache_plots"},
    {"studies.made_by", "studies.figure5_training"},
    {"studies.search_runs", "studies.study_folder"},
    {"studies.cache_growth", "studies.cache_errors"},
    {"studies.cache"},
    {"comparison.statistics", "comparison.reference", "comparison.pareto"},
    {"comparison.runs"},
    {"comparison.curves", "comparison.trade_offs"},
    {"comparison.comparison"},
    {"comparison.pictures"},
    {"comparison.report"},
    {"comparison"},
    {"studies.baselines"},
    {"studies.baseline_plots", "studies.figure1", "studies.figure5"},
    {"studies.figure1_picture", "studies.figure1_reading", "studies.figure5_picture"},
    {"studies.figure5_reading"},
    {"postprocessing.evaluator", "postprocessing.replacements"},
    {"postprocessing.ablation", "postprocessing.sensitivity", "postprocessing.shortening", "postprocessing.tuning"},
    {"postprocessing.pictures"},
    {"postprocessing"},
    {"completion"},
    {"command_line"},
    {"cost_commands"},
    {
        "baseline_commands",
        "compare_commands",
        "export_commands",
        "program_commands",
        "store_commands",
        "study_commands",
    },
    {"cli"},
    {"__main__", ""},
]
# For the convenience of `program.simplified()` and the like, at their call.
CALLS_UP = {("program", name) for name in ("simplification", "notation", "python_import", "export.latex")}
HEIGHT = {module: height for height, modules in enumerate(LAYERS) for module in modules}


def modules() -> list[tuple[str, Path]]:
    found = []
    for folder in ("nosbench_env", "agents", "wrappers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / "nosbench_env" if folder == "nosbench_env" else ROOT).with_suffix("").parts
            if folder == "nosbench_env" and parts[0] in ("agents", "wrappers"):
                continue  # the links
            found.append((".".join(part for part in parts if part != "__init__"), path))
    return found


def layer(module: str) -> int:
    top = module.split(".")[0]
    return HEIGHT[top if top in ("agents", "wrappers") else module]


def imports(path: Path) -> list[str]:
    """The modules of ours that a file imports, wherever in it, but for type checking alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = []
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: imports name their module in full"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nosbench_env"):
            module = (node.module or "").removeprefix("nosbench_env").removeprefix(".")
            inner = [f"{module}.{alias.name}".lstrip(".") for alias in node.names]
            names += [name if name in HEIGHT else module for name in inner]
        elif isinstance(node, ast.Import):
            names += [a.name.removeprefix("nosbench_env.") for a in node.names if a.name.startswith("nosbench_env")]
    return names


def test_every_module_has_its_place() -> None:
    assert {name for name, _ in modules() if name.split(".")[0] not in ("agents", "wrappers")} == set(HEIGHT) - {
        "agents",
        "wrappers",
    }


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value) if isinstance(value, str) else "")
def test_a_module_imports_only_from_below(module: str, path: Path) -> None:
    for imported in imports(path):
        same = module.split(".")[0] == imported.split(".")[0] in ("agents", "wrappers")
        below = layer(imported) < layer(module) or (module, imported) in CALLS_UP
        assert same or below, f"{module} imports {imported}"


def test_the_links_lead_to_the_folders() -> None:
    for name in ("agents", "wrappers"):
        link = ROOT / "nosbench_env" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name
