"""What goes into a model: inputs in any form, in batches of a size that memory holds, by several processes."""
