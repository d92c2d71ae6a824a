"""Which benchmarks there are, where they are looked for, and that the page on them says the same."""

import re
import subprocess
import sys

import pytest

from beta_clip_hf.evaluation.benchmarks import (
    BENCHMARKS,
    benchmark_table,
    find_benchmark,
    format_benchmarks,
    load_benchmark,
)
from evaluation.benchmarks.files import write


IDS = (
    "urban1k sharegpt4v_1k dci long_dci docci iiw coco flickr30k fg_ovd imagenet coco_boxes lvis_boxes sugarcrepe "
    "valse phrases photos scenes"
)


def test_ids_and_their_order():
    assert " ".join(BENCHMARKS) == IDS
    assert all(benchmark.id == name for name, benchmark in BENCHMARKS.items())


def test_the_page_has_the_tables(project_dir):
    page = (project_dir / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert benchmark_table() in page, "paste what benchmark_table() gives"
    rows = [line for line in benchmark_table().splitlines() if line and not line.startswith("|---")]
    links = []
    for benchmark in BENCHMARKS.values():
        links += re.findall(r"https://[^\s,;]+", benchmark.source)
    assert len(links) >= 18 and all(f"<{link}>" in page for link in links)
    assert {line.count(" | ") for line in rows} == {3} and len(rows) == 2 * (len(BENCHMARKS) + 1)


def test_the_list_names_every_task_its_size_and_its_source():
    text = format_benchmarks()
    assert [line.split()[0] for line in text.splitlines() if not line.startswith(" ")] == IDS.split()
    for benchmark in BENCHMARKS.values():
        assert (
            f"{benchmark.title}: {benchmark.size.replace('`', '')}" in text
            and benchmark.source.replace("`", "") in text
        )
    assert max(map(len, text.splitlines())) < 250


def test_a_benchmark_is_found_by_its_files(tmp_path):
    assert find_benchmark("coco", tmp_path) is None
    write(tmp_path / "annotations" / "captions_val2017.json", {})
    assert find_benchmark("coco", tmp_path) == tmp_path
    write(tmp_path / "coco" / "captions_val2017.json", {})
    assert find_benchmark("coco", tmp_path) == tmp_path / "coco"
    assert find_benchmark("coco_boxes", tmp_path) is None
    write(tmp_path / "coco" / "annotations" / "instances_val2017.json", {})
    assert find_benchmark("coco_boxes", tmp_path) == tmp_path / "coco"
    assert find_benchmark("coco", tmp_path / "absent") is None


@pytest.mark.parametrize("name", [name for name in IDS.split() if name not in ("photos", "scenes")])
def test_an_empty_folder_is_refused_with_what_to_get_and_where(name, tmp_path):
    with pytest.raises(ValueError) as refusal:
        load_benchmark(name, tmp_path, allow_subset=True)
    benchmark = BENCHMARKS[name]
    assert f"must hold {name}, with one of {benchmark.marks[0]}" in str(refusal.value)
    assert benchmark.source in str(refusal.value) and benchmark.layout in str(refusal.value)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"benchmark must be one of urban1k, .*, but is 'urban'"):
        load_benchmark("urban", tmp_path)
    with pytest.raises(ValueError, match="data must be the folder of urban1k, but is not given"):
        load_benchmark("urban1k")
    with pytest.raises(ValueError, match=r"must hold photos, with test\.jsonl or tars of rows, but does not"):
        load_benchmark("photos", tmp_path / "absent")


def test_the_registry_needs_no_torch():
    """Modules of the registry, but not the package, whose models need it anyway."""
    code = (
        "import sys, types, importlib.util as util;"
        "spec = util.find_spec('beta_clip_hf');"
        "package = types.ModuleType('beta_clip_hf'); package.__path__ = spec.submodule_search_locations;"
        "sys.modules['beta_clip_hf'] = package;"
        "import beta_clip_hf.evaluation.benchmarks as benchmarks;"
        "print(len(benchmarks.format_benchmarks()) > 1000, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_sizes_in_the_table_are_those_that_are_checked():
    """A size that the table states is a count that a reader requires, wherever one is required."""
    numbers = {name: set(re.findall(r"\d[\d,]*", benchmark.size)) for name, benchmark in BENCHMARKS.items()}
    assert numbers["dci"] == {"7,805"} and numbers["long_dci"] == {"7,602"} and numbers["docci"] == {"5,000"}
    assert numbers["flickr30k"] == {"1", "31", "1,000", "5,000", "31,014", "155,070"}
    assert numbers["sugarcrepe"] == {"7,511", "7"} and numbers["phrases"] == {"1,000", "14,481"}
