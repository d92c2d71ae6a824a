"""BibTeX entries of the methods and of this package."""

PAPERS = {
    "beta_clip": """@inproceedings{zohra2026betaclip,
  title = {β-CLIP: Text-Conditioned Contrastive Learning for Multi-Granular Vision-Language Alignment},
  author = {Zohra, Fatimah and Zhao, Chen and Itani, Hani and Ghanem, Bernard},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2026},
  note = {arXiv:2512.12678}
}""",
    "fg_clip": """@inproceedings{xie2025fgclip,
  title = {FG-CLIP: Fine-Grained Visual and Textual Alignment},
  author = {Xie, Chunyu and Wang, Bin and Kong, Fanjing and Li, Jincheng and Liang, Dawei and Zhang, Gengshen and
            Leng, Dawei and Yin, Yuhui},
  booktitle = {International Conference on Machine Learning},
  year = {2025},
  note = {arXiv:2505.05071}
}""",
    "fg_clip2": """@inproceedings{xie2026fgclip2,
  title = {FG-CLIP 2: A Bilingual Fine-grained Vision-Language Alignment Model},
  author = {Xie, Chunyu and Wang, Bin and Kong, Fanjing and Li, Jincheng and Liang, Dawei and Ao, Ji and
            Leng, Dawei and Yin, Yuhui},
  booktitle = {International Conference on Machine Learning},
  year = {2026},
  note = {arXiv:2510.10921}
}""",
}
SOFTWARE = """@software{beta_clip_hf,
  title = {beta-clip-hf: β-CLIP for the transformers library},
  author = {{The beta-clip-hf authors}},
  year = {2026}
}"""


__all__ = ["PAPERS", "SOFTWARE"]
