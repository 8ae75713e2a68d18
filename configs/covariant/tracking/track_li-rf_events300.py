# Leaky integrators; fields and time constants start as the covariant bank.
_base_ = ['../../_base_/tracking/events300.py']
model = dict(tracker=dict(unit='li', init='rf'))
