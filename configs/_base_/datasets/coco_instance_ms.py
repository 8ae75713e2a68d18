# COCO with the multi-scale training of the SDT-V3 and ST-ERF detectors: short side 480 to 800, or a crop first.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'
scales = [(s, 1333) for s in range(480, 801, 32)]
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    # The release resizes to 853x512 here and again below, which only costs resolution.
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[[dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)],
                    [
                        dict(type='RandomChoiceResize', scales=[(400, 4200), (500, 4200), (600, 4200)], keep_ratio=True),
                        dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
                        dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)
                    ]]),
    dict(type='PackDetInputs')
]
# 4 images on each of 4 GPUs, as released.
train_dataloader = dict(batch_size=4, num_workers=4, dataset=dict(pipeline=train_pipeline))
