_base_ = [
    '../_base_/models/fpn_sdtv3-t.py', '../_base_/datasets/ade20k.py', '../_base_/default_runtime_seg.py',
    '../_base_/schedules/adamw_160k.py'
]
model = dict(data_preprocessor=dict(size=(512, 512)))
auto_scale_lr = dict(enable=False, base_batch_size=32)
