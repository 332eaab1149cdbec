/* select.h: y = cond != 0 ? a : b, elementwise over views of one shape (strides of 0 repeat). */
#ifndef ALK_SELECT_H
#define ALK_SELECT_H
#include "kernel.h"

/* y packed; cond of any dtype; a and b of y's dtype, or without data, which reads as 0. */
ALK_KERNEL(select, const alk_view *y, const alk_view *cond, const alk_view *a, const alk_view *b)
#endif
