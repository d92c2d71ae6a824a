import json

import pytest
from transformers import AutoConfig, CLIPTextConfig

from beta_clip_hf import BetaCLIPConfig


def test_a_new_configuration_has_248_positions_and_the_papers_values():
    config = BetaCLIPConfig()
    assert config.model_type == "beta_clip"
    assert config.text_config.max_position_embeddings == 248
    assert (config.beta, config.alignment_loss, config.use_pooler, config.pooler_num_attention_heads) == (
        0.5,
        "ce",
        True,
        8,
    )
    assert (config.clip_loss_weight, config.beta_cal_loss_weight, config.text_conditioned_loss_weight) == (1, 1, 0)
    assert BetaCLIPConfig(text_config={"hidden_size": 64}).text_config.max_position_embeddings == 248


def test_a_given_number_of_positions_is_kept():
    assert BetaCLIPConfig(text_config={"max_position_embeddings": 77}).text_config.max_position_embeddings == 77
    text_config = CLIPTextConfig(max_position_embeddings=50)
    assert BetaCLIPConfig(text_config=text_config).text_config.max_position_embeddings == 50


def test_round_trip(tmp_path):
    config = BetaCLIPConfig(beta=0.25, alignment_loss="bce", pooler_null_token=True, projection_dim=64)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, BetaCLIPConfig)
    assert loaded.to_json_string(use_diff=False).replace(str(tmp_path), "") == config.to_json_string(use_diff=False)
    assert (loaded.beta, loaded.alignment_loss, loaded.pooler_null_token) == (0.25, "bce", True)


@pytest.mark.parametrize("names_positions", [True, False])
def test_a_stock_clip_file_reads_77_positions_also_where_it_leaves_them_out(
    tiny_clip_config, tmp_path, names_positions
):
    tiny_clip_config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    if not names_positions:
        del stored["text_config"]["max_position_embeddings"]
        (tmp_path / "config.json").write_text(json.dumps(stored))
    config = BetaCLIPConfig.from_pretrained(tmp_path)
    assert config.text_config.max_position_embeddings == 77
    assert config.model_type == config.to_dict()["model_type"] == "beta_clip"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beta": 1.5}, r"beta must be in \[0, 1\], but is 1.5"),
        ({"alignment_loss": "mse"}, "alignment_loss must be one of .*, but is 'mse'"),
        ({"projection_dim": 20}, r"pooler_num_attention_heads must divide projection_dim \(20\), but is 8"),
        ({"clip_loss_weight": -1.0}, "clip_loss_weight must not be negative, but is -1.0"),
        ({"beta_cal_loss_weight": -1}, "beta_cal_loss_weight must not be negative, but is -1"),
        ({"text_conditioned_loss_weight": -2}, "text_conditioned_loss_weight must not be negative, but is -2"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        BetaCLIPConfig(**values)


def test_heads_do_not_matter_without_a_pooler():
    assert BetaCLIPConfig(projection_dim=20, use_pooler=False).projection_dim == 20


def test_wrong_types_are_refused():
    with pytest.raises(Exception, match="beta"):
        BetaCLIPConfig(beta="half")
