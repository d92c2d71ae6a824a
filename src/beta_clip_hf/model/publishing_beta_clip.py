# Copyright 2026 The beta-clip-hf authors
# SPDX-License-Identifier: Apache-2.0
"""How a model of this package is saved and uploaded with its code and a card."""

from typing import Any

from .remote_code_beta_clip import carrying_code, pin_first_card, render_first_card, save_model_with_code


class PublishedModel:
    """Gives a model of transformers, which stands behind it among the bases, its code and its card."""

    config: Any
    config_class: Any
    _auto_class: Any

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """
        Uploads the model with its code, as [`~transformers.PreTrainedModel.push_to_hub`] does.

        See [`carrying_code`] for the code. A repository without a model card gets one, see [`render_first_card`].
        """
        with carrying_code({self.config_class: "AutoConfig", type(self): "AutoModel"}):
            model: Any = super()
            return model.push_to_hub(*args, **kwargs)

    def _upload_modified_files(self, working_dir: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # transformers calls this inside of `push_to_hub`, once the folder holds all files.
        token = kwargs.get("token")
        has_our_card = render_first_card(working_dir, repo_id, token)
        commit = super()._upload_modified_files(  # type: ignore[misc]  # that of the towers
            working_dir, repo_id, *args, **kwargs
        )
        # A pull request is one commit, which is another once it is merged.
        if has_our_card and not kwargs.get("create_pr"):
            pin_first_card(working_dir, repo_id, commit.oid, token=token, branch=kwargs.get("revision"))
        return commit

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """
        Saves the model with its code, otherwise as [`~transformers.PreTrainedModel.save_pretrained`] does.

        All Auto classes that find it with the package also find it without, see [`saved_with_code`].
        """
        model: Any = super()
        save_model_with_code(model.save_pretrained, self, save_directory, *args, **kwargs)


__all__ = ["PublishedModel"]
