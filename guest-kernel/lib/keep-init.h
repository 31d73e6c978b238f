/* Included before every C file of the kernel.
 *
 * What the kernel runs only while it starts is text like any other here. In a
 * section of its own it is copied into every guest and overwritten when it is
 * freed; in the text it is mapped and shared (order.sh) and never written.
 */
#ifdef __x86_64__ /* not the 32-bit vDSO, which has headers of its own */
#include <linux/init.h>
#undef __init
#define __init
#endif
