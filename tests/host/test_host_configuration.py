"""Where a host keeps the mixin's settings, in which form, and what it hands to the hook."""

import logging
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Optional

import lightning.pytorch as pl
import pytest
import torch
from host_fits import NUM_SLOTS, PictureLogger, fit, outputs_of, some_batch
from omegaconf import OmegaConf

from core.utils import log_training_visualizations
from core.visualization import VisualizationsConfig, VisualizationsMixin

SETTINGS = {
    "enabled": True,
    "every_n_steps": 1,
    "panel_size": 64,
    "max_overhead": 1.0,
    "max_pending": 8,
}


class HostModule(VisualizationsMixin, pl.LightningModule):
    """One convolution in SAM 2's place; `handed_over` and `more` change what the hook gets."""

    def __init__(self, handed_over=lambda batch, outs: (batch, outs), **more):
        super().__init__()
        self.handed_over, self.more = handed_over, more
        self.conv = torch.nn.Conv2d(3, NUM_SLOTS, 3, padding=1)

    def training_step(self, batch, batch_idx):
        outs = outputs_of(batch, self.conv)
        given = self.handed_over(batch, outs)
        self.maybe_log_visualizations(*given, batch_idx, "train", **self.more)
        return sum(out["pred_masks_high_res"].mean() for out in outs)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@dataclass
class TypedSettings:
    """A host's own settings, the mixin's among them."""

    visualizations: VisualizationsConfig = field(
        default_factory=lambda: VisualizationsConfig(**SETTINGS)
    )


@dataclass
class OptionalSettings:
    """The same where a host may leave them out."""

    visualizations: Optional[VisualizationsConfig] = None


def warnings_in(caplog):
    return [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("core")
    ]


FORMS = {
    "typed": VisualizationsConfig(**SETTINGS),
    "mapping": SETTINGS,
    "object": SimpleNamespace(**SETTINGS),
    "DictConfig": OmegaConf.create(SETTINGS),
    "structured": OmegaConf.merge(OmegaConf.structured(VisualizationsConfig), SETTINGS),
}


def put_under_config(module, section):
    module.config = SimpleNamespace(visualizations=section)


def put_under_hparams(module, section):
    module.save_hyperparameters({"lr": 0.1, "visualizations": section})


def put_as_attribute(module, section):
    module.visualizations = section


PLACES = {
    "config": put_under_config,
    "hparams": put_under_hparams,
    "attribute": put_as_attribute,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_settings_are_found_in_every_place_and_form(place, form, caplog):
    module = HostModule()
    PLACES[place](module, FORMS[form])
    assert [step for _, step in fit(module)] == [0, 1]
    assert warnings_in(caplog) == []


@pytest.mark.parametrize(
    "config",
    [
        TypedSettings(),
        OptionalSettings(VisualizationsConfig(**SETTINGS)),
        OmegaConf.structured(TypedSettings),
        OmegaConf.merge(OmegaConf.structured(OptionalSettings), {"visualizations": SETTINGS}),
        OmegaConf.create({"visualizations": SETTINGS}),
    ],
    ids=["typed", "optional", "structured", "structured optional", "composed"],
)
def test_settings_are_found_in_a_hosts_own_configuration(config, caplog):
    module = HostModule()
    module.config = config
    assert len(fit(module)) == 2
    assert warnings_in(caplog) == []


def test_hosts_own_attribute_of_that_name_does_not_hide_the_configuration(caplog):
    module = HostModule()
    module.visualizations = ["loss", "learning rate"]
    module.config = SimpleNamespace(visualizations=SETTINGS)
    assert len(fit(module)) == 2
    assert module.visualizations == ["loss", "learning rate"]
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("place", PLACES)
def test_settings_that_are_off_are_off_without_a_word(place, caplog):
    module = HostModule()
    PLACES[place](module, SETTINGS | {"enabled": False})
    assert fit(module) == []
    assert warnings_in(caplog) == []


def has_no_settings(module):
    """Nothing at all."""


def has_other_settings(module):
    module.config = SimpleNamespace(lr=0.1)


def has_other_hparams(module):
    module.save_hyperparameters({"lr": 0.1})


@pytest.mark.parametrize("prepare", [has_no_settings, has_other_settings, has_other_hparams])
def test_where_there_are_no_settings_one_warning_says_what_to_set(prepare, caplog):
    module = HostModule()
    prepare(module)
    assert fit(module, num_steps=3) == []
    (warning,) = warnings_in(caplog)
    assert "self.config.visualizations" in warning.getMessage()
    assert "VisualizationsConfig" in warning.getMessage()


def test_a_mistyped_setting_is_named_in_one_warning(caplog):
    module = HostModule()
    module.config = SimpleNamespace(visualizations=SETTINGS | {"every_n_step": 2})
    assert fit(module, num_steps=3) == []
    assert len(warnings_in(caplog)) == 1
    assert "every_n_step" in caplog.text


def whole_tuple(outs):
    return outs, [0, 1]


def whole_tuple_of_many(outs):
    """As long as the clip, by chance."""
    return (outs, [0, 1], None, None)


def tensors(outs):
    return [out["pred_masks_high_res"] for out in outs]


SAID = {
    whole_tuple: ("outs_per_frame", "tuple", "obj_to_cat"),
    whole_tuple_of_many: ("outs_per_frame", "tuple", "obj_to_cat"),
    tensors: ("outs_per_frame", "list of dictionaries", "pred_masks_high_res"),
}


@pytest.mark.parametrize("changed", SAID)
def test_outputs_of_another_form_are_refused_with_what_to_pass(changed):
    batch = some_batch()
    outs = changed(outputs_of(batch, torch.nn.Conv2d(3, NUM_SLOTS, 3, padding=1)))
    with pytest.raises((TypeError, ValueError)) as refused:
        log_training_visualizations(PictureLogger(), batch, outs, stage="train", step=0)
    for word in SAID[changed]:
        assert word in str(refused.value)


@pytest.mark.parametrize("changed", SAID)
def test_the_hook_says_once_what_to_pass_and_training_goes_on(changed, caplog):
    module = HostModule(lambda batch, outs: (batch, changed(outs)))
    module.config = SimpleNamespace(visualizations=SETTINGS)
    assert fit(module, num_steps=3) == []
    assert len(warnings_in(caplog)) == 1
    for word in SAID[changed]:
        assert word in caplog.text


def test_a_batch_without_metadata_is_drawn_and_what_it_lacks_is_said_once(caplog):
    def without_metadata(batch, outs):
        return SimpleNamespace(**(vars(batch) | {"metadata": None})), outs

    module = HostModule(without_metadata)
    module.config = SimpleNamespace(visualizations=SETTINGS)
    with caplog.at_level(logging.INFO, logger="core"):
        assert len(fit(module, num_steps=3)) == 3
    said = [record for record in caplog.records if "metadata" in record.getMessage()]
    assert len(said) == 1
    assert "unique_objects_identifier" in said[0].getMessage()


def with_clicks(batch, outs):
    coords, labels = torch.full((3, 1, 2), 4.0), torch.ones(3, 1, dtype=torch.int32)
    clicks = {"point_coords": coords, "point_labels": labels}
    return batch, [outs[0] | {"point_inputs": clicks}, *outs[1:]]


@pytest.mark.parametrize("owners", [[], [1, 0]], ids=str)
def test_obj_to_cat_of_another_length_costs_the_prompts_alone_and_is_said_once(owners, caplog):
    module = HostModule(with_clicks, obj_to_cat=owners)
    module.visualizations = VisualizationsConfig(**SETTINGS)
    assert len(fit(module, num_steps=3)) == 3
    (warning,) = warnings_in(caplog)
    said = f"obj_to_cat has {len(owners)} entries, but outs_per_frame[0] has 3 prompt rows"
    assert said in warning.getMessage()
    assert "pass one mask row (b * N + c) per prompt row" in warning.getMessage()
