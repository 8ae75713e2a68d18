# No memory, the last eight frames as input channels; otherwise as track_relu-uniform_events48.py.
_base_ = ['./track_relu-uniform_events48.py']
stack = 8
model = dict(tracker=dict(in_ch=2 * stack))
train_dataloader = dict(dataset=dict(stack=stack))
val_dataloader = dict(dataset=dict(stack=stack))
test_dataloader = val_dataloader
