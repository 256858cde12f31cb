"""Enrolment of machines as pure logic: tokens, the stages of an enrolment, and who is let in. Owns these decisions;
signs nothing, draws nothing, knows no clock and no service.
"""
