# Leaky integrators; fields and time constants start at random.
_base_ = ['../../_base_/tracking/events300.py']
model = dict(tracker=dict(unit='li', init='uniform'))
