# Three shapes in videos of 300x300 pixels: the size of the covariant paper's experiment, for a GPU.
# Data (tools/covariant_tracking.py --size events300 makes it):
#     sterf make-events data/events300 --videos 500 --frames 128 --resolution 300 300 \
#         --size 10 20 40 80 --velocity 0.2
# Fields are in pixels and within what a grid represents (the paper's reach from 0.2 pixels to beyond their windows),
# so their number is 72 in the first layer, not 192.
_base_ = ['./shape_tracking.py']
classes = ('circle', 'square', 'triangle')
steps = 40  # of the warm-up and of the scored part
orders = [(0, 0), (1, 0), (0, 1), (1, 1)]
model = dict(
    resolution=(300, 300),
    tracker=dict(
        classes=len(classes),
        layers=[
            dict(out_ch=72, bank=dict(sigmas=(1.0, 1.5), ratios=(1.0, 1.5, 2.25), orders=orders, kernel_size=9)),
            dict(out_ch=72, bank=dict(sigmas=(0.8, 1.1), ratios=(1.0, 1.5), orders=orders, kernel_size=7)),
            dict(out_ch=3, bank=dict(sigmas=(0.8, 1.0), ratios=(1.0, 1.5), orders=orders, kernel_size=5)),
        ],
        mus=(5.477, 10.954, 21.909, 43.818),  # sqrt(30) (1, 2, 4, 8) frames
        share=False,
        head='deconv',
        dropout=0.05))
dataset = dict(data_root='data/events300', t=steps)
train_dataloader = dict(num_workers=4, persistent_workers=True, dataset=dataset)
val_dataloader = dict(batch_size=8, num_workers=4, persistent_workers=True, dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(classes=classes)
test_evaluator = val_evaluator

max_epochs = 50
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
param_scheduler = dict(type='ExponentialLR', gamma=0.95, by_epoch=True)
default_hooks = dict(checkpoint=dict(interval=5))
