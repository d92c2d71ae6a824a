"""The recipes on SigLIP 2 towers, and the parts of the loss that each of them computes."""

FINE_GRAINED = {
    "sigmoid_loss",
    "short_sigmoid_loss",
    "region_loss",
    "intra_text_loss",
    "hard_contrast_loss",
    "hard_negative_loss",
    "rank_loss",
}
SIGLIP2_PARTS = {
    "fg_clip2_stage2": FINE_GRAINED,
    "beta_siglip2": {"sigmoid_loss", "beta_cal_loss"},
    "beta_fg2": FINE_GRAINED | {"beta_cal_loss"},
}
