"""Train one of our models on a folder of images through timm's public functions; a small stand-in for its train.py.

    python docs/train_imagefolder.py data/imagenet --model sdtv3_tiny_srb --epochs 200 --batch-size 256
    python docs/train_imagefolder.py data/imagenet --model sdtv3_tiny_srb --teacher resnet50

Expects DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg. Defaults are the papers' recipe (docs/imagenet.md).
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

import timm
import torch
from timm.data import Mixup, create_dataset, create_loader, resolve_model_data_config
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, accuracy

import sterf_plugins.timm  # noqa: F401
from sterf_plugins.cli.console import check_device, run_tool
from sterf_plugins.files import check_new, replacing
from sterf_plugins.firing import FiringRates, neuron_layers, silence


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path)
    p.add_argument("--model", default="sdtv3_tiny_srb")
    p.add_argument("--epochs", type=int, default=200)
    p.add_argument("--batch-size", type=int, default=256)
    p.add_argument("--blr", type=float, default=6e-4, help="learning rate for a batch of 256 (default: %(default)s)")
    p.add_argument("--size", type=int, help="side of the images (default: the model's)")
    p.add_argument("--mixup", type=float, default=0.0)
    p.add_argument("--cutmix", type=float, default=0.0)
    p.add_argument("--teacher", help="timm model whose logits are learnt too, with its pretrained weights")
    p.add_argument("--workers", type=int, default=4)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--out", type=Path, default=Path("work_dirs/imagefolder"))
    p.add_argument("--overwrite", action="store_true", help="replace the checkpoint of an earlier training in OUT")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def loaders(args: argparse.Namespace, model: torch.nn.Module):
    """Training and validation loaders, and the classes."""
    data = resolve_model_data_config(model)
    size = (3, args.size, args.size) if args.size else data["input_size"]
    common = dict(
        batch_size=args.batch_size, mean=data["mean"], std=data["std"], num_workers=args.workers, use_prefetcher=False
    )
    train = create_dataset("", root=str(args.data), split="train", is_training=True)
    val = create_dataset("", root=str(args.data), split="val")
    # Without the upper bound of 9 timm may ask Pillow to keep no bit of an image, which Pillow refuses.
    augment = dict(auto_augment="rand-m9-mstd0.5-mmax9-inc1", re_prob=0.25, re_mode="pixel")
    return (
        create_loader(train, size, is_training=True, interpolation="bicubic", **augment, **common),
        create_loader(val, size, crop_pct=data["crop_pct"], interpolation="bicubic", **common),
    )


def main() -> None:
    args = parse_args()
    check_device(args.device)
    check_new(args.out / "last.pth", args.overwrite)
    for split in ("train", "val"):
        if not (args.data / split).is_dir():
            raise ValueError(f"{args.data / split} does not exist; expected {split}/CLASS/*.jpg in {args.data}.")
    torch.manual_seed(args.seed)
    classes = len([d for d in (args.data / "train").iterdir() if d.is_dir()])
    model = timm.create_model(args.model, num_classes=classes).to(args.device)
    train, val = loaders(args, model)
    if not len(train):
        raise ValueError(f"{args.data}/train holds fewer images than --batch-size {args.batch_size}.")
    learning_rate = args.blr * args.batch_size / 256
    optimizer = create_optimizer_v2(model, "lamb", lr=learning_rate, weight_decay=0.05, trust_clip=True)
    scheduler, epochs = create_scheduler_v2(
        optimizer, "cosine", num_epochs=args.epochs, warmup_epochs=min(5, args.epochs - 1), min_lr=1e-6, warmup_lr=1e-6
    )
    mixup = Mixup(args.mixup, args.cutmix, num_classes=classes) if args.mixup or args.cutmix else None
    criterion = SoftTargetCrossEntropy() if mixup else LabelSmoothingCrossEntropy(0.1)
    task = None
    if args.teacher:
        from timm.task import LogitDistillationTask

        task = LogitDistillationTask(model, args.teacher, criterion, distill_loss_weight=1.0, task_loss_weight=1.0)
    args.out.mkdir(parents=True, exist_ok=True)
    for epoch in range(epochs):
        scheduler.step(epoch)
        losses, top1 = AverageMeter(), AverageMeter()
        model.train()
        for images, targets in train:
            images, targets = images.to(args.device), targets.to(args.device)
            if mixup:
                images, targets = mixup(images, targets)
            loss = task(images, targets)["loss"] if task else criterion(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(images))
        model.eval()
        watched = epoch in (0, epochs - 1) and bool(neuron_layers(model))
        with torch.no_grad(), FiringRates(model) if watched else nullcontext() as rates:
            for images, targets in val:
                (right,) = accuracy(model(images.to(args.device)), targets.to(args.device))
                top1.update(right.item(), len(images))
        print(f"epoch {epoch + 1}/{epochs}: loss {losses.avg:.4f}, top-1 {top1.avg:.2f} %", flush=True)
        line = silence(rates.layers) if rates else None
        if line:
            print(f"epoch {epoch + 1}, validation images: {line}", file=sys.stderr)
        with replacing(args.out / "last.pth") as partial:
            torch.save(dict(state_dict=model.state_dict(), epoch=epoch, arch=args.model), partial)


if __name__ == "__main__":
    run_tool(main)
