"""Profiles hold settings of machines, never science, and Snakemake understands them."""

import pytest
import yaml
from snakemake.cli import get_argument_parser

from tests.fixtures.profiles import PROFILES, settings

NAMES = ["default", "gpu", "slurm", "together"]


def test_these_are_all_the_profiles():
    assert sorted(path.parent.name for path in PROFILES.glob("*/config.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_an_option_of_snakemake_and_none_is_science(name):
    options = {text.removeprefix("--") for action in get_argument_parser()._actions for text in action.option_strings}
    # Options of an executor's plugin are known where the plugin is installed.
    of_plugin = {key for key in settings(name) if key.startswith(f"{settings(name).get('executor')}-")}
    assert settings(name).keys() - of_plugin <= options
    # Snakemake drops a profile's config as soon as the user gives any: results would depend on the machine.
    assert settings(name).keys().isdisjoint({"config", "configfile", "configfiles"})


@pytest.mark.parametrize("name", ["gpu", "slurm"])
def test_every_profile_behaves_after_crashes_and_failures_as_the_default_one(name):
    shared = {key: value for key, value in settings("default").items() if key != "cores"}
    assert {key: settings(name).get(key) for key in shared} == shared


def test_the_slurm_profile_asks_for_gpus_only_where_told():
    assert {request.get("gpu", 0) for request in settings("slurm")["set-resources"].values()} == {0}
    run = settings("slurm", RUN_GPUS="2", RUN_MINUTES="10", RUN_MB="4000")["set-resources"]["run"]
    assert run == {"gpu": 2, "mem_mb": 4000, "runtime": 10}


def test_the_profile_for_many_small_runs_adds_to_that_of_slurm_and_replaces_nothing():
    together = settings("together")
    assert together.keys().isdisjoint(settings("slurm"))
    assert together["group-components"].keys() == set(together["groups"].values())
    assert together["set-resource-scopes"].keys() == together["resources"].keys()


def test_the_pod_of_kubernetes_works_where_its_volume_is_and_on_the_cores_of_its_limit():
    pod = yaml.safe_load((PROFILES / "kubernetes/job.yaml").read_text())["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": container["workingDir"]}]
    assert container["env"][0]["name"] == "CORES" and container["command"][-1].endswith("--cores $(CORES)")
    assert container["resources"]["requests"] == container["resources"]["limits"]
