// SPDX-License-Identifier: GPL-2.0
/*
 * What a module must not do and LKDTM does not, or not unseen by KASAN: leak memory, sleep where that is not allowed, write to a page that
 * is free. It does so once, while it is loaded.
 */
#include <linux/gfp.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/slab.h>

/* The address of one may stay on a stack, and then it does not count as lost. So many would all fit into a sheaf of their slab. */
#define LOST 8

static char *fault = "";
module_param(fault, charp, 0);
MODULE_PARM_DESC(fault, "leak, sleep or page");

static int __init provoke_init(void)
{
	unsigned int i;

	if (!strcmp(fault, "leak")) {
		for (i = 0; i < LOST; i++)
			(void)READ_ONCE(*(char *)kmalloc(1000, GFP_KERNEL));
	} else if (!strcmp(fault, "sleep")) {
		preempt_disable();
		kfree(kmalloc(1000, GFP_KERNEL));
		preempt_enable();
	} else if (!strcmp(fault, "page")) {
		unsigned long page = __get_free_page(GFP_KERNEL);

		free_page(page);
		WRITE_ONCE(*(char *)page, 1);
		/* It is looked at when it is given out again, and the last is the next. */
		free_page(__get_free_page(GFP_KERNEL));
	} else {
		return -EINVAL;
	}
	return 0;
}

static void __exit provoke_exit(void)
{
}

module_init(provoke_init);
module_exit(provoke_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Does what the kernel that looks for faults has to find");
