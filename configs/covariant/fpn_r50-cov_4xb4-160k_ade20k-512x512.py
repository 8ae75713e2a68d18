_base_ = [
    'mmseg::_base_/models/fpn_r50.py', '../_base_/datasets/ade20k.py', '../_base_/default_runtime_seg.py',
    'mmseg::_base_/schedules/schedule_160k.py'
]
# The stock segmentor has a ResNetV1c: a deep stem, of which the first convolution is replaced.
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(type='sterf_plugins.CovariantStemResNet', base='mmseg', deep_stem=True),
    decode_head=dict(num_classes=150))
