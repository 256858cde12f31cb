"""The index of SBOMs: which nodes run which component. Owns a cache beside the controller that answers by component;
the documents are large values, and which node has which document stands in the log.
"""
