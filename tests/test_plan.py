"""What is predicted from probes, and what is said of it."""

import pytest
from rich.console import Console

from core.config import Config, DataConfig, LoraConfig, ModelConfig, SyntheticConfig, TrainerConfig
from core.plan.__main__ import main, objects_of
from core.plan.fit import Measured, Size, fit
from core.plan.program import fits, plan, remark_on, run_probe, table_of
from core.plan.sizes import choices_of, probe_of, sizes_to_probe

OWN = Size(6, 5, 256)
WEIGHTS = 0.5


def size_of(config):
    synthetic = config.data.synthetic
    assert synthetic.min_objects == synthetic.max_objects == config.data.max_objects
    return Size(config.data.num_frames, synthetic.max_objects, config.model.image_size)


def needs(size):
    """GiB of a model whose frames and objects need the same each, and more with each memory."""
    return size.side**2 * (size.frames * (3e-6 + 1e-6 * size.objects))


def pretend(config, device="cpu"):
    """A step of `needs`, half of it in bf16, and none of it trained but memory."""
    share = 0.5 if config.trainer.precision == "bf16-mixed" else 1.0
    weights = WEIGHTS / 2 if config.model.trainable_modules else WEIGHTS
    grown = share * needs(size_of(config))
    return Measured(weights + grown, 10 * grown, device, "H100")


def test_what_was_not_probed_is_predicted():
    sizes = sizes_to_probe(OWN, Config())
    assert len(set(sizes)) == 8
    for axis in ("frames", "objects", "side"):
        probed = {getattr(size, axis) for size in sizes}
        assert len(probed) == 2
        assert max(probed) < getattr(OWN, axis)
    predict = fit(sizes, [WEIGHTS + needs(size) for size in sizes])
    assert predict(OWN) == pytest.approx(WEIGHTS + needs(OWN), rel=1e-6)


@pytest.mark.parametrize("own", [Size(2, 1, 64), Size(2, 2, 96), Size(16, 40, 1024)])
def test_every_size_has_two_probes_of_each_axis(own):
    sizes = sizes_to_probe(own, Config())
    for axis in ("frames", "objects", "side"):
        assert len({getattr(size, axis) for size in sizes}) == 2
    for size in sizes:
        assert size_of(probe_of(Config(), size)) == size


def test_clips_of_probes_are_long_enough_for_the_prompts():
    model = ModelConfig(prompt_type="mixed", num_init_cond_frames=3, num_frames_to_correct=3)
    config = Config(model=model, data=DataConfig(num_frames=8))
    frames = {size.frames for size in sizes_to_probe(OWN, config)}
    assert min(frames) == 4
    assert probe_of(config, Size(4, 1, 64)).model.prompt_type == "point"


def test_choices_change_what_is_not_set_yet():
    assert list(choices_of(Config())) == [
        "trainer.precision=bf16-mixed",
        "model.activation_checkpointing=image_encoder",
        "model.activation_checkpointing=memory_attention",
        "model.activation_checkpointing=loss",
        "model.activation_checkpointing=all",
        "trainer.precision=bf16-mixed model.activation_checkpointing=all",
        "model.trainable_modules=all_but_image_encoder",
        "model.trainable_modules=decoder_memory",
        "model.trainable_modules=memory",
    ]
    clicks = Config(model=ModelConfig(prompt_type="point"))
    assert "model.activation_checkpointing=clicks" in choices_of(clicks)
    config = Config(
        model=ModelConfig(lora=LoraConfig(rank=4), activation_checkpointing="all"),
        trainer=TrainerConfig(precision="bf16-mixed"),
    )
    assert choices_of(config) == {}


def test_a_choice_grows_as_the_own_settings_do():
    said = []
    found = plan(Config(), OWN, said.append, pretend)
    assert said[0].startswith("26 probes of 3 steps each, for 6 frames, 5 objects, 256 px")
    assert said[1].endswith(" left")
    peaks = {row.settings: row.peak for row in found.rows}
    assert peaks["your settings"] == pytest.approx(WEIGHTS + needs(OWN), rel=1e-6)
    assert peaks["trainer.precision=bf16-mixed"] == pytest.approx(WEIGHTS + needs(OWN) / 2)
    assert peaks["model.trainable_modules=memory"] == pytest.approx(WEIGHTS / 2 + needs(OWN))
    times = {row.settings: row.step_s for row in found.rows}
    assert times["trainer.precision=bf16-mixed"] == pytest.approx(times["your settings"] / 2)


def printed(found):
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table_of(found))
    return captured.get()


def test_gpus_are_marked_from_probes_on_a_gpu_alone():
    on_cpu = plan(Config(), OWN, lambda said: None, pretend)
    assert " GB" not in printed(on_cpu)
    assert "resident memory" in remark_on(on_cpu)
    on_gpu = plan(Config(), OWN, lambda said: None, lambda config: pretend(config, "cuda"))
    assert "8 GB" in printed(on_gpu)
    assert "H100" in remark_on(on_gpu)
    assert fits(6.7, 8)
    assert not fits(7.0, 8)


def test_a_choice_that_does_not_fit_is_said_and_a_probe_that_does_not_ends_it():
    def without_bf16(config):
        return None if config.trainer.precision == "bf16-mixed" else pretend(config)

    found = plan(Config(), OWN, lambda said: None, without_bf16)
    assert len(found.failed) == 2
    assert "too much here" in printed(found)
    with pytest.raises(ValueError, match="memory does not suffice for 4 frames, 3 objects, 192 px"):
        plan(Config(), OWN, lambda said: None, lambda config: None)


def test_images_are_probed_as_images():
    sizes = sizes_to_probe(Size(1, 2, 192), Config(model=ModelConfig(prompt_type="point")))
    assert {size.frames for size in sizes} == {1, 2}


def test_mistakes_end_in_one_sentence(capsys):
    assert main(["data.num_frames=0"]) == 1
    assert capsys.readouterr().err.startswith("error: data.num_frames must be at least 1")


def test_objects_are_those_of_the_clips():
    assert objects_of(Config(data=DataConfig(synthetic=SyntheticConfig(max_objects=7)))) == 7
    assert objects_of(Config(data=DataConfig(source="sav", root=".", max_objects=4))) == 4


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_real_step_needs_what_was_predicted(monkeypatch):
    own = Size(6, 2, 192)  # neither its frames nor its side is probed
    config = Config(data=DataConfig(batch_size=1))
    name = "model.activation_checkpointing=all"
    choice = choices_of(config)[name]
    monkeypatch.setattr("core.plan.program.choices_of", lambda config: {name: choice})
    for row, settings in zip(plan(config, own, print).rows, (config, choice), strict=True):
        measured = run_probe(probe_of(settings, own))
        print(row, measured)
        assert row.peak == pytest.approx(measured.peak, rel=0.15)
