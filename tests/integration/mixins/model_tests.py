"""transformers' own tests of models and configurations, as those of every kind of towers run them."""

import copy

import torch

from integration.mixins import source


models = source.load("test_modeling_common")
configurations = source.load("test_configuration_common")

# What is left out for every model.
LEFT_OUT = {
    "test_hidden_states_output": "outputs hold hidden states in a field for each tower, and not at the top",
    "test_attention_outputs": "outputs hold attentions in a field for each tower, and not at the top",
    "test_retain_grad_hidden_states_attentions": "it reads hidden states at the top of the output, see above",
    "test_model_weights_reload_no_missing_tied_weights": "a checkpoint that lacks all tensors is refused in a sentence",
}
# What is left out for a batch with `image_index`.
FLAT_LEFT_OUT = {
    "test_batching_equivalence": "it asks for hidden states, which a flat batch refuses in a sentence",
    "test_capture_outputs_decorator": "a flat batch refuses output_hidden_states in a sentence",
    "test_can_capture_specific_layers_hidden_states": "a flat batch refuses output_hidden_states in a sentence",
}


@source.leaving_out(LEFT_OUT)
class CommonTests(models.ModelTesterMixin):
    """
    The tests of each model, with what our configuration and our batches make different.

    Subclasses name the classes of the model and its configuration, and the inputs.
    """

    model_class: type
    config_class: type
    inputs_class: type
    common_properties: tuple[str, ...]
    # What a plain batch needs beside texts, the main input.
    additional_model_inputs: tuple[str, ...]
    # It has a configuration for each tower.
    _is_composite = True

    def setUp(self):
        self.model_tester = self.inputs_class()
        self.config_tester = configurations.ConfigTester(
            self,
            config_class=self.config_class,
            # The words are the text tower's, in its own configuration.
            has_text_modality=False,
            common_properties=self.common_properties,
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = copy.deepcopy(inputs_dict)
        # A contrast has no labels.
        return {**inputs, "return_loss": True} if return_labels else inputs

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_can_init_all_missing_weights(self):
        """
        A pooler that a checkpoint lacks starts like that of a new model.

        transformers' test loads a checkpoint without any tensor, which is refused. It wants the same random numbers,
        but the stock model draws them for its own parts before there is a pooler, so that distributions are compared.
        """
        config = self.model_tester.get_config()
        new = self.model_class(copy.deepcopy(config)).state_dict()
        stored = {name: tensor for name, tensor in new.items() if not name.startswith("pooler.")}
        loaded = self.model_class.from_pretrained(None, config=copy.deepcopy(config), state_dict=stored).state_dict()
        assert new.keys() == loaded.keys()
        for name, tensor in new.items():
            if name in stored or tensor.unique().numel() == 1:
                assert torch.equal(tensor, loaded[name]), name
            else:
                # 1,024 numbers or more: their standard deviation is known to 2 %.
                torch.testing.assert_close(loaded[name].std(), tensor.std(), rtol=0.15, atol=0, msg=name)


@source.leaving_out(FLAT_LEFT_OUT)
class FlatTests(CommonTests):
    """The tests of a model with a pooler, whose texts name their images."""

    def test_model_outputs_equivalence(self):
        """Tuples hold what dictionaries hold; without hidden states and attentions, which a flat batch refuses."""
        model = self.model_class(self.model_tester.get_config()).eval()
        for has_loss in (False, True):
            inputs = {**self.model_tester.inputs(), "return_loss": has_loss}
            with torch.no_grad():
                as_tuple = model(**inputs, return_dict=False)
                as_dict = model(**inputs, return_dict=True).to_tuple()
            assert isinstance(as_tuple, tuple) and len(as_tuple) == len(as_dict) >= 4
            torch.testing.assert_close(as_tuple, as_dict)

    def test_eager_matches_sdpa_on_a_flat_batch(self):
        """The inherited tests compare the two on a plain batch: they ask for hidden states."""
        eager = self.model_class(self.model_tester.get_config()).eval()
        sdpa = copy.deepcopy(eager)
        eager.set_attn_implementation("eager")
        sdpa.set_attn_implementation("sdpa")
        inputs = {**self.model_tester.inputs(), "return_loss": True}
        with torch.no_grad():
            expected, outputs = eager(**inputs), sdpa(**inputs)
        assert expected.losses.keys() == outputs.losses.keys()
        for name in ("loss", "logits_per_image", "contextualized_embeds"):
            torch.testing.assert_close(outputs[name], expected[name], rtol=1e-4, atol=1e-5)
