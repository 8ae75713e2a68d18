# With the released detectors' own behaviour, for their checkpoints (tools/model_converters/convert.py).
# The released baseline also trains with spikes up to 8 (divided by 4); it evaluates with 4, as here.
_base_ = './mask-rcnn_sdtv3-t-conv_spikefpn_ms-1x_coco.py'
model = dict(
    neck=dict(eval_levels=1),  # the neck's spikes have D=4 in training and D=1 in evaluation
    # P5 has stride 16 and P6 stride 32, but heads and RoIAlign are told 32 and 64.
    rpn_head=dict(anchor_generator=dict(strides=[4, 8, 16, 32, 64])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[4, 8, 16, 32]),
        mask_roi_extractor=dict(featmap_strides=[4, 8, 16, 32])))
# `norm: decay_mult 0` of the release matches no parameter: norm layers decay like all others.
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=1.0))
