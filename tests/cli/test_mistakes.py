"""Mistakes of users: each has its exit code, which is never that of a fault, and one sentence that helps."""

import json
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from beta_clip_cli.main import ERROR, main
from beta_clip_hf import BetaCLIPModel, BetaCLIPProcessor


class Mistake(NamedTuple):
    """A command line, its exit code, and a part of its sentence."""

    line: str
    code: int
    part: str


USAGE = 2
# A training that is right but for what follows it.
TRAIN = "train --model model --train-data rows.jsonl --batch-size 4 --steps 2 --output out --set training.use_cpu=true"
EVALUATE = "evaluate --model model --tasks photos --output measured"


def usage(line: str, part: str) -> Mistake:
    return Mistake(line, USAGE, part)


def error(line: str, part: str) -> Mistake:
    return Mistake(line, ERROR, part)


def setting(word: str, part: str) -> Mistake:
    return error(f"{TRAIN} --set {word}", part)


MISTAKES = (
    # Words that there are not.
    usage("", "evaluate "),
    usage("trian", "did you mean train?"),
    usage("evalute --model model", "did you mean evaluate?"),
    usage("convert", "fg-clip2"),
    usage("convert fgclip a b", "did you mean fg-clip"),
    usage("export onxx model x", "did you mean onnx?"),
    usage("train --setp 3", "did you mean --set?"),
    usage("train --step 3", "did you mean --steps?"),
    usage("train --batchsize=3", "did you mean --batch-size?"),
    usage("doctor --jsn", "did you mean --json?"),
    usage("hierarchy rows.jsonl --output h --tagger nlkt", "did you mean nltk?"),
    usage("train --train-data rows.jsonl --format jsn", "did you mean json"),
    usage("train --learning-rate fast", "invalid float value: 'fast'"),
    error(f"{EVALUATE.replace('photos', 'photo')} --data rows.jsonl", "did you mean photos?"),
    error(f"{EVALUATE.replace('photos', 'photos,flicker30k')} --data x", "did you mean flickr30k?"),
    error(f"{EVALUATE} --data text.jsonl --columns img=image txt=caption", "did you mean text?"),
    error(f"{TRAIN} --columns captoin=caption", "did you mean caption?"),
    setting("training.learnin_rate=1", "did you mean learning_rate"),
    setting("data.num_phrase=1", "did you mean num_phrases"),
    setting("modle.dtype=float32", "did you mean model?"),
    # Values of the wrong kind or out of range.
    setting("training", "--set must be KEY=VALUE"),
    setting("training.learning_rate=fast", "training.learning_rate must be a finite number, but is 'fast'"),
    setting("training.learning_rate=nan", "training.learning_rate must be a finite number, but is 'nan'"),
    error(f"{TRAIN} --learning-rate nan", "training.learning_rate must be a finite number, but is nan"),
    setting("training.learning_rate=-1", "learning_rate must not be negative"),
    setting("training.weight_decay=-1", "weight_decay must be a number of at least 0, but is -1"),
    setting("training.max_grad_norm=-1", "max_grad_norm must be a number of at least 0, but is -1"),
    setting("training.adam_beta1=2", "adam_beta1 must be below 1, but is 2"),
    setting("training.adam_epsilon=-1", "adam_epsilon must be a number of at least 0"),
    setting("training.warmup_steps=-5", "warmup_steps must be a number of at least 0"),
    setting("training.save_steps=-1", "save_steps must be a number above 0"),
    setting("training.logging_steps=0", "logging_steps must be a number above 0"),
    setting("training.eval_steps=-3", "eval_steps must be a number above 0"),
    setting("training.max_steps=1.5 --steps 2 --set training.seed=1.5", "training.seed must be a whole number"),
    error(f"{TRAIN} --seed -1", "seed must be a number of at least 0, but is -1"),
    setting("training.dataloader_num_workers=-1", "dataloader_num_workers must be a number of at least 0"),
    setting("training.bf16=maybe", "training.bf16 must be true or false or null, but is 'maybe'"),
    setting("training.gradient_checkpointing=5", "training.gradient_checkpointing must be true or false"),
    setting("training.log_level=lowd", "log_level must be one of"),
    setting("training.ema_decay=2", "ema_decay must be at least 0"),
    setting("training.lr_scheduler_type=linear", "lr_scheduler_type must be 'cosine'"),
    setting("training.optim=adamw_trch", "did you mean adamw_torch"),
    setting("training.eval_strategy=sometimes", "training.eval_strategy must be one of no, steps, epoch"),
    setting("training.accelerator_config=3", "training.accelerator_config must be a mapping"),
    setting("'training.accelerator_config={foo: 1}'", "unexpected keyword argument 'foo'"),
    setting("training.freeze=nose", "freeze must name parts of the model"),
    setting("training.contrastive_batch_size=7", "contrastive_batch_size must be a multiple of the 4 images"),
    setting("data.random_resized_crop=2", "data.random_resized_crop must be a list of 2 numbers"),
    setting("data.random_resized_crop=[0.5]", "data.random_resized_crop must be a list of 2 numbers"),
    setting("data.num_phrases=many", "data.num_phrases must be a whole number, but is 'many'"),
    setting("data.short_caption_probability=high", "must be a finite number, but is 'high'"),
    setting("data.caption_mode=half", "caption_mode must be one of"),
    setting("data.strict=5", "data.strict must be true or false"),
    setting("data.train.columns=5", "data.train.columns must be a mapping"),
    setting("data.eval_fraction=2", "eval_fraction must be above 0 and below 1, but is 2"),
    setting("model.config.beta=x", "model.config.beta must be a whole number or a finite number, but is 'x'"),
    setting("model.config.beta=2", "beta must be in [0, 1], but is 2"),
    setting("model.config.clip_loss_weight=-1", "clip_loss_weight must not be negative, but is -1"),
    setting("model.config.alignment_loss=cee", "alignment_loss must be one of ('ce', 'bce'), but is 'cee'"),
    setting("model.config.pooler_num_attention_heads=3", "must divide projection_dim (32), but is 3"),
    setting("model.dtype=float3", "model.dtype must be 'auto' or one of"),
    setting("model.tokenizer=5", "model.tokenizer must be a text or a mapping"),
    setting("model.tokenizer=nothing", "model.tokenizer must be OpenAI's file of merges"),
    error(f"{TRAIN} --batch-size 0", "per_device_train_batch_size must be a whole number of at least 1"),
    error(f"{TRAIN} --batch-size 100", "use a smaller per_device_train_batch_size"),
    error(f"{TRAIN} --steps -1", "--steps must be at least 0"),
    error(f"{TRAIN} --epochs 1", "--steps and --epochs must not be given together"),
    error(f"{TRAIN} --skip 100", "skip must leave a record"),
    error(f"{TRAIN} --take 0", "take must be a whole number of at least 1"),
    error(f"{TRAIN} --allow-changed foo", "--allow-changed must be a setting or a section"),
    error(f"{TRAIN} --resume --overwrite", "--resume and --overwrite must not be given together"),
    # What belongs together.
    setting("training.load_best_model_at_end=true", "eval_strategy must be 'steps' or 'epoch'"),
    setting("training.eval_strategy=steps", "name rows to evaluate on (--eval-data)"),
    error(f"{TRAIN} --eval-data rows.jsonl --eval-fraction 0.5", "one of data.eval (--eval-data)"),
    error(
        f"{TRAIN} --eval-data rows.jsonl --set training.eval_strategy=steps --set training.metric_for_best_model=loss",
        "metric_for_best_model must be one of i2t_r1",
    ),
    error("train photos --train-data rows.jsonl --model model", "the photos must be named once"),
    error("train --train-data rows.jsonl --output out", "one of model.from_pretrained (--model)"),
    error("train --model model --output out", "data.train must be given"),
    error("train --train-data rows.jsonl --model model", "training.output_dir must be given"),
    # Packages that are not installed.
    setting("training.report_to=neptune", "pip install neptune, or leave report_to out"),
    setting("training.report_to=wandbb", "did you mean wandb"),
    setting("training.deepspeed=nofile.json", "pip install deepspeed"),
    error("hierarchy rows.jsonl --output h --tagger nltk", "python -m nltk.downloader averaged_perceptron_tagger_eng"),
    # Files and folders.
    error("train --config nothing.yaml --train-data rows.jsonl --output out", "nothing.yaml cannot be read"),
    error("train --config stage2.yaml --train-data rows.jsonl --output out", "runs/fg_clip_stage1 cannot be downl"),
    error(f"{TRAIN} --eval-data nothing.jsonl", "source must name existing JSON files, but is 'nothing.jsonl'"),
    error(f"{TRAIN} --image-root nowhere", "say where with image_root (--image-root)"),
    error(f"{TRAIN.replace('rows.jsonl', 'text.jsonl')}", "--columns img=image text=caption"),
    error(f"{TRAIN.replace('rows.jsonl', 'classes')}", "has the labels of a folder per class"),
    error(f"{TRAIN.replace('rows.jsonl', 'latin.csv')}", "--encoding cp1252"),
    error(f"{TRAIN.replace('rows.jsonl', 'shards')}", "beta-clip hierarchy --shard 1/2"),
    error(f"{TRAIN.replace('--output out', '--output rows.jsonl')}", "rows.jsonl: File exists"),
    error("train rows.jsonl --model nowhere", "nowhere cannot be downloaded"),
    error(f"{EVALUATE.replace('--model model', '--model modle')} --data rows.jsonl", "modle cannot be downloaded"),
    error(f"{EVALUATE.replace('--model model', '--model empty')} --data rows.jsonl", "empty must be a model directory"),
    error(f"{EVALUATE.replace('--model model', '--model rows.jsonl')} --data rows.jsonl", "not a valid JSON file"),
    error(f"{EVALUATE} --data rows.jsonl --select nothing.txt", "select must be an existing file of ids"),
    error(f"{EVALUATE} --data rows.jsonl --device gpu", "device must be one that torch can use here"),
    error(f"{EVALUATE} --data rows.jsonl --batch-size 0", "batch_size must be at least 1"),
    error(f"{EVALUATE}", "data must be the folder of photos"),
    error("compare nothing rows.jsonl", "nothing: No such file or directory: check the path"),
    error("export clip model model", "output must be another directory"),
    error("export merged model merged", "model must be the directory of an adapter"),
    error("interpolate model model mixed --alpha 2", "alpha must be in [0, 1]"),
    error("search nothing.index dog", "make one with beta-clip index"),
    error("show --model plain --image photos/1.png --text a", "must have a trained pooler"),
    error("show --model model --image nothing.png --text a", "image must be readable, but is 'nothing.png'"),
    error("show --model model --image photos/1.png --text a --box 1,2", "box must be X,Y,W,H"),
    error("push nothing me/model", "nothing must be a model directory"),
    error("demo --port -1", "port must be within 1 and 65535"),
    # Words that a command lacks, or has too many.
    error("evaluate", "model must be given, but is not: see beta-clip evaluate --help"),
    error("evaluate --model model --tasks photos --data rows.jsonl", "output must be given, but is not"),
    usage("evaluate --model model --tasks", "argument --tasks: expected one argument"),
    usage("hierarchy rows.jsonl", "arguments are required: --output"),
    usage("compare rows.jsonl", "arguments are required: B"),
    usage("convert b-clip", "arguments are required: FILE, DIR"),
    usage("index photos --model model", "arguments are required: --output"),
    usage("train --set", "argument --set: expected one argument"),
    usage("train --device cuda", "unrecognized arguments: --device\n"),
    usage("export onnx model onnx --opset 3", "unrecognized arguments: --opset 3\n"),
    usage("show --scene x", "invalid int value: 'x'"),
    usage("search photos.index dog --top many", "invalid int value: 'many'"),
    error("search photos.index", "a query must have a text, a phrase or an image"),
    error("search photos.index ''", "a text of a query must not be blank"),
    error("show --image photos/1.png", "add --text"),
    error("show --image photos/1.png --text ''", "text must hold some text, but is blank"),
    # More values out of range.
    error("train rows.jsonl --model model --output out --epochs -1", "--epochs must be at least 0"),
    error("train rows.jsonl --model model --output out --learning-rate 1e400", "learning_rate must be a finite number"),
    error("train rows.jsonl --model model --output out --batch-size -4", "must be a whole number of at least 1"),
    error("hierarchy rows.jsonl --output h --shard 4/4", "shard must be i/n with 0 <= i < n, but is 4/4"),
    error("hierarchy rows.jsonl --output h --shard 1", "--shard must be I/N, as in 0/4, but is '1'"),
    error("search photos.index dog --top 0", "top must be at least 1, but is 0"),
    error("search photos.index dog --rerank -1", "rerank must be at least 0"),
    error("search photos.index dog --min-confidence 2", "min_confidence must be at least 0 and less than 1"),
    error("search photos.index dog --where 'width >'", "where must be a condition in SQL over image"),
    error("search photos.index dog --where 'nothing = 3'", "No field named nothing"),
    error("show --image photos/1.png --text a --head 99", "head must be 'mean' or one of 0 to"),
    error("show --image photos/1.png --text a --phrases -1", "phrases must be 0 or more"),
    error("show --image photos/1.png --text a --output a.gif", "output must end in one of ('.png', '.html')"),
    error("index photos --model model --output photos.index --name ''", "the name of a source must be text"),
    setting("model.lora=5", "model must have known keys only, but has 'lora'"),
    setting("training.bf16=true --set training.fp16=true", "fp16 and bf16"),
    # Files of another kind.
    error("train photos --model model --output out", "photos must have captions, but has images only"),
    error("train rows.jsonl text.txt --model model --output out", "source must be files of one format"),
    error("train empty.jsonl --model model --output out", "must have a row that can be used, but has no row at all"),
    error("train rows.jsonl --model rows.jsonl --output out", "a model must be a directory with a config.json"),
    error("train --config list.yaml --output out", "list.yaml must be a mapping of names to values"),
    error("train --config broken.yaml --output out", "the configuration must be YAML or JSON, but broken.yaml cannot"),
    error("train rows.jsonl --model model --output text.txt", "there is a file where a directory is to be"),
    error("train rows.jsonl --model model --output out --resume nothing", "nothing must be the directory of a checkp"),
    error("hierarchy rows.jsonl --output rows.jsonl", "there is a file where a directory is to be"),
    error("compare text.txt text.txt", "text.txt must be a results.json, but is not JSON"),
    error("convert b-clip rows.jsonl converted", "checkpoint must be a PyTorch file of tensors only"),
    error("convert fg-clip model converted", "source must be an FG-CLIP checkpoint"),
    error("index empty --model model --output new.index", "source must be a folder with photos below it"),
    error("index photos --model plain --output photos.index", "the model must be that of the index"),
    error("search model dog", "model must be an index, but holds none: make one"),
    error("search photos.index --image nothing.png", "image must be readable, but is 'nothing.png'"),
    error("search photos.index --image text.txt", "its content must be one of JPEG"),
    error("search photos.index dog --html photos", "photos: Is a directory: a file must be named"),
    error("show --image photos --text a", "it must be a regular file, but is a directory"),
    error("train rows.jsonl --model bare --output out", "a model directory must have its processor"),
    error("demo --photos nothing --model model", "source must be an existing file or directory"),
)


@pytest.fixture(scope="module")
def workplace(tiny_clip_dir, tiny_tokenizer, project_dir, tmp_path_factory) -> Path:
    """What the mistakes are made with: two models, photos with rows, and files that are almost right."""
    folder = tmp_path_factory.mktemp("workplace")
    for name, use_pooler in (("model", True), ("plain", False)):
        BetaCLIPModel.from_pretrained(tiny_clip_dir, use_pooler=use_pooler).save_pretrained(folder / name)
        BetaCLIPProcessor.from_image_size(tiny_tokenizer, image_size=32).save_pretrained(folder / name)
    BetaCLIPModel.from_pretrained(tiny_clip_dir, use_pooler=True).save_pretrained(folder / "bare")
    for name in ("photos", "empty", "shards", "classes/dog", "classes/cat"):
        (folder / name).mkdir(parents=True)
    rows, renamed = [], []
    for number in range(8):
        Image.new("RGB", (40, 30), (30 * number, 255 - 30 * number, 100)).save(folder / f"photos/{number}.png")
        rows.append(json.dumps({"image": f"photos/{number}.png", "caption": f"Picture {number}. It is plain."}) + "\n")
        renamed.append(json.dumps({"img": f"photos/{number}.png", "text": f"Picture {number}."}) + "\n")
    (folder / "rows.jsonl").write_text("".join(rows))
    (folder / "text.jsonl").write_text("".join(renamed))
    (folder / "shards/train-00000-of-00002.jsonl").write_text("".join(rows))
    (folder / "empty.jsonl").write_text("")
    (folder / "text.txt").write_text("hello")
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "broken.yaml").write_text("a: [1\n")
    photos, model, output = str(folder / "photos"), str(folder / "model"), str(folder / "photos.index")
    index = ("index", photos, "--model", model, "--output", output)
    assert main(index) == 0
    (folder / "latin.csv").write_bytes("image,caption\nphotos/0.png,“a café”\n".encode("cp1252"))
    for kind in ("dog", "cat"):
        (folder / f"classes/{kind}/0.png").write_bytes((folder / "photos/0.png").read_bytes())
    (folder / "stage2.yaml").write_bytes((project_dir / "examples/configs/fg_clip_stage2.yaml").read_bytes())
    return folder


def test_there_are_enough_mistakes_and_each_is_another_one() -> None:
    assert len(MISTAKES) == len({mistake.line for mistake in MISTAKES}) >= 150


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.line.removeprefix(TRAIN).strip() or "nothing")
def test_a_mistake_is_told(mistake: Mistake, workplace: Path, monkeypatch, capsys) -> None:
    if mistake.line.startswith("demo --photos"):
        pytest.importorskip("gradio", reason="the photos of the demo are read after Gradio is found")
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("NLTK_DATA", str(workplace / "empty"))
    try:
        code = main(shlex.split(mistake.line))
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == mistake.code and mistake.part in err, err[-500:]
    if code == ERROR:
        # One sentence, and the last line.
        last = err.strip().splitlines()[-1]
        assert last.startswith("beta-clip: error: ") and mistake.part in last
    assert "Traceback" not in err
    assert not (workplace / "out").exists() or not list((workplace / "out").glob("*.safetensors"))
